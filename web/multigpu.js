// Brings MultiGPU into ComfyUI's page: the sidebar tab, the allocation editor on every split node, and the choice of a
// device in every node's menu.

import { app } from "../../scripts/app.js";
import { deviceMenu, makeVariantsOf } from "./choose_device.js";
import { AllocationEditor } from "./editor.js";
import { element } from "./elements.js";
import { Panel } from "./panel.js";
import * as server from "./server.js";
import { allocationsOf } from "./split_node.js";
import { readWords, say } from "./words.js";

let panel = null;
let devices = [];

app.registerExtension({
  name: "multigpu",

  commands: [
    {
      id: "multigpu.showPanel",
      label: "MultiGPU: show devices and models",
      icon: "pi pi-microchip",
      function: () => app.extensionManager.command.execute("Workspace.ToggleSidebarTab.multigpu"),
    },
    {
      id: "multigpu.editAllocation",
      label: "MultiGPU: edit the allocation of the selected node",
      icon: "pi pi-sliders-h",
      function: () => editSelected(),
    },
    {
      id: "multigpu.freeEverything",
      label: "MultiGPU: free everything",
      icon: "pi pi-trash",
      function: () => server.freeEverything(),
    },
  ],

  async beforeConfigureGraph(workflow) {
    await makeVariantsOf(workflow);
  },

  getNodeMenuItems(node) {
    return deviceMenu(node, devices);
  },

  async setup() {
    listDevices();
    document.head.append(
      element("link", { rel: "stylesheet", href: new URL("./style.css", import.meta.url).href }),
    );
    await readWords();
    app.extensionManager?.registerSidebarTab?.({
      id: "multigpu",
      icon: "pi pi-microchip",
      title: "MultiGPU",
      tooltip: say("MultiGPU: devices and the models on them"),
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

function editSelected() {
  const allocation = Object.values(app.canvas.selected_nodes ?? {}).flatMap(allocationsOf)[0];
  if (allocation) new AllocationEditor(allocation).open();
  else {
    const detail = say("Select a split node (DisTorch2) first.");
    app.extensionManager?.toast?.add?.({ severity: "info", summary: "MultiGPU", detail, life: 5000 });
  }
}
