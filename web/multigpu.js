// Brings MultiGPU into ComfyUI's page: the sidebar tab, and the allocation editor on every split node.

import { app } from "../../scripts/app.js";
import { AllocationEditor } from "./editor.js";
import { element } from "./elements.js";
import { Panel } from "./panel.js";
import { allocationsOf } from "./split_node.js";

let panel = null;

app.registerExtension({
  name: "multigpu",

  setup() {
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
