// Brings MultiGPU into ComfyUI's page: the sidebar tab, the allocation editor on every split node, and the choice of a
// device in every node's menu.

import { app } from "../../scripts/app.js";
import { deviceMenu, makeVariantsOf } from "./choose_device.js";
import { AllocationEditor } from "./editor.js";
import { element } from "./elements.js";
import { Panel } from "./panel.js";
import * as server from "./server.js";
import { allocationsOf } from "./split_node.js";

let panel = null;
let devices = [];

app.registerExtension({
  name: "multigpu",

  async beforeConfigureGraph(workflow) {
    await makeVariantsOf(workflow);
  },

  getNodeMenuItems(node) {
    return deviceMenu(node, devices);
  },

  setup() {
    listDevices();
    document.head.append(
      element("link", { rel: "stylesheet", href: new URL("./style.css", import.meta.url).href }),
    );
    app.extensionManager?.registerSidebarTab?.({
      id: "multigpu",
      icon: "pi pi-microchip",
      title: "MultiGPU",
      tooltip: "MultiGPU: devices and the models on them",
      type: "custom",
      render: (root) => {
        panel?.close();
        panel = new Panel(root);
      },
      destroy: () => {
        panel?.close();
        panel = null;
      },
    });
  },

  nodeCreated(node) {
    for (const allocation of allocationsOf(node)) {
      const open = () => new AllocationEditor(allocation).open();
      // It holds no value: the first keeps it out of prompts, the second out of saved workflows.
      const button = node.addWidget("button", allocation.buttonLabel, null, open, { serialize: false });
      button.serialize = false;
    }
  },
});

async function listDevices() {
  try {
    devices = (await server.state()).devices.map((device) => device.name);
  } catch (error) {
    console.info(`MultiGPU: no device can be chosen in menus: ${error.message}`);
  }
}
