// The sidebar tab: every device, every loaded model, what the last steps took, and what can be done about it.

import { blockStrip, deviceBar, legend } from "./bars.js";
import { button, bytes, element, seconds } from "./elements.js";
import * as server from "./server.js";
import { Speeds } from "./speeds.js";

const SECONDS_BETWEEN_LOOKS = 1;

/** Lives as long as the tab is open; asks the server only while the page is seen. */
export class Panel {
  #root;
  #devices = element("section", { "aria-label": "Devices" });
  #models = element("section", { "aria-label": "Loaded models" });
  #message = element("p", { class: "multigpu-message", role: "status" });
  #fault = element("p", { class: "multigpu-message", role: "alert", hidden: true });
  #speeds = new Speeds();
  #timer = null;
  #shown = { all: "", models: "" };
  #isSilent = false; // the server, when it was last asked

  constructor(root) {
    this.#root = root;
    const free = button(
      "Free everything",
      () => this.#do("Freeing everything as soon as ComfyUI is idle.", server.freeEverything),
      { title: "Unload every model, including kept ones, and clear all cached outputs" },
    );
    root.classList.add("multigpu-panel");
    root.replaceChildren(
      element("header", { class: "multigpu-header" }, element("h2", {}, "MultiGPU"), free),
      this.#fault,
      this.#message,
      this.#devices,
      this.#models,
      this.#speeds.element,
      this.#pluginReport(),
    );
    this.look();
    this.#timer = setInterval(() => this.look(), SECONDS_BETWEEN_LOOKS * 1000);
  }

  close() {
    clearInterval(this.#timer);
  }

  /** Ask the server and show what has changed; nothing while the page is hidden or the tab is closed. */
  async look() {
    if (document.hidden || !this.#root.isConnected) return;
    try {
      this.#show(await server.state());
      if (this.#isSilent) this.#message.textContent = "";
      this.#isSilent = false;
    } catch (error) {
      this.#message.textContent = `ComfyUI does not respond: ${error.message}`;
      this.#isSilent = true;
    }
  }

  /** Nothing is built anew that looks the same: free memory changes all the time, models seldom do. */
  #show(state) {
    const shown = { all: JSON.stringify(state), models: JSON.stringify([state.models, state.kept_by_nodes]) };
    const before = this.#shown;
    if (shown.all === before.all) return;
    this.#shown = shown;
    this.#showFault(state.worker_fault);
    this.#speeds.show(state.speeds_measured);
    const devices = [...state.devices].sort((a, b) => (a.name === "cpu") - (b.name === "cpu"));
    const names = devices.map((device) => device.name);
    const kept = state.kept_by_nodes.map((model) => ({ ...model, ours: null, split: null }));
    const models = [...state.models, ...kept]
      .map((model) => ({ ...model, title: titleOf(model) }))
      .sort((a, b) => (a.ours === null) - (b.ours === null));
    this.#devices.replaceChildren(...devices.map((device) => deviceEntry(device, models, names)));
    if (shown.models !== before.models) this.#showModels(models, names);
  }

  #showFault(fault) {
    const text = fault === null ? "" : `ComfyUI's prompt worker has died: ${fault}. Restart ComfyUI to run prompts.`;
    if (text === this.#fault.textContent) return; // or it would be read out at every look
    this.#fault.textContent = text;
    this.#fault.hidden = !text;
  }

  #showModels(models, names) {
    const focused = this.#models.contains(document.activeElement) ? document.activeElement.dataset.action : null;
    const entries = models.map((model) => this.#modelEntry(model, names));
    this.#models.replaceChildren(
      element("h3", {}, "Loaded models"),
      ...(entries.length ? entries : [element("p", {}, "None.")]),
    );
    if (focused) this.#models.querySelector(`[data-action="${CSS.escape(focused)}"]`)?.focus();
  }

  #modelEntry(model, names) {
    return element(
      "article",
      { class: "multigpu-card", "aria-label": model.title },
      element("h4", {}, model.title),
      element("p", { class: "multigpu-detail" }, subtitle(model)),
      model.split && blockStrip(model.split.blocks, names),
      legend(model.bytes_by_device, names),
      model.split && stepTable(model.split),
      model.ours && this.#buttons(model),
    );
  }

  #buttons(model) {
    const { key, keep_loaded: isKept } = model.ours;
    const keep = button("Keep", () => this.#do("", () => server.keep(key, !isKept)), {
      "data-action": `keep-${key}`,
      "aria-pressed": String(isKept),
      title: "Keep the model when ComfyUI is asked to unload models",
    });
    const unload = button("Unload", () => this.#do(`Unloaded ${model.title}.`, () => server.unload(key)), {
      "data-action": `unload-${key}`,
      title: "Unload the model from all devices to system memory",
    });
    return element("div", { class: "multigpu-buttons" }, keep, unload);
  }

  async #do(done, deed) {
    try {
      await deed();
      this.#message.textContent = done;
    } catch (error) {
      this.#message.textContent = error.message;
    }
    await this.look();
  }

  #pluginReport() {
    const body = element("div", {});
    const details = element("details", { class: "multigpu-plugins" }, element("summary", {}, "Plugins"), body);
    details.addEventListener("toggle", async () => {
      if (!details.open) return;
      try {
        body.replaceChildren(...(await server.plugins()).map(pluginEntry));
      } catch (error) {
        body.replaceChildren(error.message);
      }
    });
    return details;
  }
}

function deviceEntry(device, models, names) {
  const used = `${bytes(device.free_bytes)} of ${bytes(device.total_bytes)} free`;
  return element(
    "div",
    { class: "multigpu-device" },
    element("div", { class: "multigpu-line" }, element("strong", {}, device.name), element("span", {}, used)),
    element("div", { class: "multigpu-detail" }, device.title),
    deviceBar(device, models, names),
  );
}

function titleOf(model) {
  return model.ours?.files.length ? model.ours.files.join(", ") : model.name;
}

function subtitle(model) {
  const node = model.ours?.node_id ? `, node ${model.ours.node_id}` : "";
  if (model.node_class) return `kept by ${model.node_class}`;
  if (!model.ours) return "loaded by a ComfyUI node or another pack";
  if (!model.split) return `${model.name}, whole${node}`;
  return `${model.name}, split (${model.split.strategy}), computes on ${model.split.compute_device}${node}`;
}

function stepTable(split) {
  const rows = [
    ["A step took", split.step_seconds === null ? "not yet measured" : seconds(split.step_seconds)],
    ["predicted", split.predicted_seconds === null ? "unknown" : seconds(split.predicted_seconds)],
    ["moved in a step", bytes(split.step_bytes)],
    ["staging", bytes(split.staging_bytes)],
    ["allocation", split.expert_string],
  ];
  return element(
    "dl",
    { class: "multigpu-steps" },
    rows.map(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]),
  );
}

function pluginEntry(plugin) {
  return element("p", {}, element("strong", {}, plugin.name), ` ${plugin.summary}`);
}
