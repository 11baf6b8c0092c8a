// The sidebar tab: every device, every loaded model, what the last steps took, and what can be done about it.

import { blockStrip, deviceBar, legend, relayNote } from "./bars.js";
import { button, bytes, element, seconds } from "./elements.js";
import * as server from "./server.js";
import { showNode } from "./show_node.js";
import { Speeds } from "./speeds.js";
import { say } from "./words.js";

const SECONDS_BETWEEN_LOOKS = 1;

/** Lives as long as the tab is open; asks the server only while the page is seen. */
export class Panel {
  #root;
  #devices = element("section", { "aria-label": say("Devices") });
  #models = element("section", { "aria-label": say("Loaded models") });
  #message = element("p", { class: "multigpu-message", role: "status" });
  #fault = element("p", { class: "multigpu-message", role: "alert", hidden: true });
  #speeds = new Speeds();
  #timer = null;
  #shown = { all: "", models: "" };
  #isSilent = false; // the server, when it was last asked

  constructor(root) {
    this.#root = root;
    const free = button(
      say("Free everything"),
      () => this.#do(say("Freeing everything as soon as ComfyUI is idle."), server.freeEverything),
      { title: say("Unload every model, including kept ones, and clear all cached outputs") },
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
      this.#message.textContent = say("ComfyUI does not respond: {error}", { error: error.message });
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
    const text = fault === null ? "" : say("ComfyUI's prompt worker has died: {fault}. Restart ComfyUI to run prompts.", { fault });
    if (text === this.#fault.textContent) return; // or it would be read out at every look
    this.#fault.textContent = text;
    this.#fault.hidden = !text;
  }

  #showModels(models, names) {
    const focused = this.#models.contains(document.activeElement) ? document.activeElement.dataset.action : null;
    const entries = models.map((model) => this.#modelEntry(model, names));
    this.#models.replaceChildren(
      element("h3", {}, say("Loaded models")),
      ...(entries.length ? entries : [element("p", {}, say("None."))]),
    );
    if (focused) this.#models.querySelector(`[data-action="${CSS.escape(focused)}"]`)?.focus();
  }

  #modelEntry(model, names) {
    return element(
      "article",
      { class: "multigpu-card", "aria-label": model.title },
      element("h4", {}, model.title),
      element("p", { class: "multigpu-detail" }, subtitle(model), this.#nodeLink(model.ours)),
      model.split?.warnings.map((warning) => element("p", { class: "multigpu-warning" }, warning)),
      model.split && blockStrip(model.split.blocks, names),
      model.split && relayNote(model.split.blocks),
      legend(model.bytes_by_device, names),
      model.split && this.#stepTable(model.split),
      model.ours && this.#buttons(model),
    );
  }

  /** The node that loaded a model: pressed, it is selected and centred. */
  #nodeLink(ours) {
    if (!ours?.node_id) return null;
    const { node_id: id, node_class: type, key } = ours;
    const show = () => {
      this.#message.textContent = showNode(id, type) ? "" : say("Node {id} is not in the workflow that is open.", { id });
    };
    const link = button(say("node {id}", { id }), show, {
      class: "multigpu-link",
      "data-action": `node-${key}`,
      title: say("Show the node that loaded the model"),
    });
    return [", ", link];
  }

  #stepTable(split) {
    const rows = [
      [say("A step took"), split.step_seconds === null ? say("not yet measured") : seconds(split.step_seconds)],
      split.predicted_seconds !== null && [say("predicted"), seconds(split.predicted_seconds)],
      [say("moved in a step"), split.step_bytes === null ? say("not yet measured") : bytes(split.step_bytes)],
      [say("staging"), bytes(split.staging_bytes)],
      [say("allocation"), [wrapped(split.expert_string), this.#copyButton(split.expert_string)]],
    ];
    return element(
      "dl",
      { class: "multigpu-steps" },
      rows.filter(Boolean).map(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]),
    );
  }

  #copyButton(text) {
    const copy = async () => {
      try {
        await navigator.clipboard.writeText(text);
        this.#message.textContent = say("Copied the allocation string.");
      } catch (error) {
        // Browsers have no clipboard for pages of other machines without https.
        this.#message.textContent = say("The browser refuses to copy: {error}", { error: error.message });
      }
    };
    return button(say("Copy"), copy, { class: "multigpu-copy", title: say("Copy the allocation string") });
  }

  #buttons(model) {
    const { key, keep_loaded: isKept } = model.ours;
    const keep = button(say("Keep"), () => this.#do("", () => server.keep(key, !isKept)), {
      "data-action": `keep-${key}`,
      "aria-pressed": String(isKept),
      title: say("Keep the model when ComfyUI is asked to unload models"),
    });
    const unload = button(say("Unload"), () => this.#do(say("Unloaded {model}.", { model: model.title }), () => server.unload(key)), {
      "data-action": `unload-${key}`,
      title: say("Unload the model from all devices to system memory"),
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
    const details = element("details", { class: "multigpu-plugins" }, element("summary", {}, say("Plugins")), body);
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
  const used = say("{free} of {total} free", { free: bytes(device.free_bytes), total: bytes(device.total_bytes) });
  return element(
    "div",
    { class: "multigpu-device" },
    element("div", { class: "multigpu-line" }, element("strong", {}, device.name), element("span", {}, used)),
    element(
      "div",
      { class: "multigpu-detail multigpu-line" },
      element("span", {}, device.title),
      element("span", { class: "multigpu-activity" }, activity(device)),
    ),
    deviceBar(device, models, names),
  );
}

function titleOf(model) {
  return model.ours?.files.length ? model.ours.files.join(", ") : model.name;
}

function subtitle(model) {
  const { name, split } = model;
  if (model.node_class) return say("kept by {node}", { node: model.node_class });
  if (!model.ours) return say("loaded by a ComfyUI node or another pack");
  if (!split) return say("{name}, whole", { name });
  const values = { name, strategy: split.strategy, device: split.compute_device };
  return say("{name}, split ({strategy}), computes on {device}", values);
}

/** What a driver reports of its device; nothing where it reports nothing. */
function activity({ utilization_percent: percent, temperature_celsius: celsius }) {
  return [
    percent !== null && say("{percent} % busy", { percent }),
    celsius !== null && say("{celsius} °C", { celsius }),
  ].filter(Boolean).join(", ");
}

/** A string that breaks after semicolons, where its shares end. */
function wrapped(text) {
  return text.split(/(?<=;)/).flatMap((share) => [share, document.createElement("wbr")]);
}

function pluginEntry(plugin) {
  return element("p", {}, element("strong", {}, plugin.name), ` ${plugin.summary}`);
}
