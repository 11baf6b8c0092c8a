// The allocation editor: a dialog in which the borders between devices are dragged, or the string is typed. The server
// plans at each change, from the files' headers, with the rules of a real load; what it answers is what is shown.

import { blockStrip, relayNote } from "./bars.js";
import { button, bytes, element, seconds } from "./elements.js";
import * as server from "./server.js";
import { ShareBar } from "./share_bar.js";
import { say } from "./words.js";

export class AllocationEditor {
  #allocation;
  #dialog;
  #devices = [];
  #bar = null;
  #text;
  #strategy;
  #strip = element("div", { class: "multigpu-blocks" });
  #table = element("tbody", {});
  #prediction = element("p", { class: "multigpu-prediction", "aria-live": "polite" });
  #message = element("div", { class: "multigpu-message", role: "alert" });
  #apply;
  #isAsking = false;
  #isOutdated = false;
  #wished = null; // the string that the borders came to, once they have been moved

  constructor(allocation) {
    this.#allocation = allocation;
    this.#text = element("input", {
      type: "text",
      id: "multigpu-expert",
      value: allocation.expert,
      spellcheck: "false",
      placeholder: say("empty: use virtual VRAM and donor; auto: the fastest plan that fits"),
      oninput: () => this.#ask(),
    });
    this.#strategy = element(
      "select",
      { id: "multigpu-strategy", onchange: () => this.#ask() },
      allocation.strategies.map((name) => element("option", { value: name }, name)),
    );
    this.#strategy.value = allocation.strategy;
    this.#apply = button(say("Apply"), () => this.#write(), { class: "multigpu-primary" });
    this.#dialog = element("dialog", { class: "multigpu-editor", "aria-labelledby": "multigpu-editor-title" });
    this.#dialog.addEventListener("close", () => this.#dialog.remove());
    // ComfyUI's own shortcuts are not for what is typed here.
    this.#dialog.addEventListener("keydown", (event) => event.stopPropagation());
  }

  async open() {
    document.body.append(this.#dialog);
    this.#dialog.replaceChildren(element("p", {}, say("Reading the devices…")));
    this.#dialog.showModal();
    try {
      this.#devices = (await server.state()).devices;
    } catch (error) {
      this.#dialog.replaceChildren(element("p", { role: "alert" }, error.message), this.#cancelButton());
      return;
    }
    this.#bar = new ShareBar(this.#inOrder(), (shares) => this.#take(shares));
    this.#build();
    this.#text.focus();
    this.#ask();
  }

  #inOrder() {
    const names = this.#names();
    const compute = this.#allocation.computeDevice(names);
    return [compute, ...names.filter((name) => name !== compute && name !== "cpu"), "cpu"].filter(
      (name, index, all) => all.indexOf(name) === index,
    );
  }

  #names() {
    return this.#devices.map((device) => device.name);
  }

  #build() {
    const files = this.#allocation.files.map((file) => file.name).join(", ");
    this.#dialog.replaceChildren(
      element("h2", { id: "multigpu-editor-title" }, say("Allocation of {node}", { node: this.#allocation.title })),
      element("p", { class: "multigpu-detail" }, files || NO_FILE()),
      element("p", { class: "multigpu-hint" }, say("Drag the borders, or move them with the arrow keys.")),
      this.#bar.element,
      element("p", { class: "multigpu-hint" }, say("The model's blocks in execution order:")),
      this.#strip,
      element(
        "table",
        { class: "multigpu-shares" },
        element("thead", {}, element("tr", {}, this.#columns().map((name) => element("th", { scope: "col" }, name)))),
        this.#table,
      ),
      element(
        "div",
        { class: "multigpu-fields" },
        element("label", { for: "multigpu-expert" }, say("Allocation string")),
        this.#text,
        this.#allocation.hasStrategy && element("label", { for: "multigpu-strategy" }, say("Strategy")),
        this.#allocation.hasStrategy && this.#strategy,
      ),
      element("div", { class: "multigpu-outcome" }, this.#message, this.#prediction),
      element("div", { class: "multigpu-buttons" }, button(say("Automatic"), () => this.#type("auto")), this.#cancelButton(), this.#apply),
    );
    // As many rows as there will be: nothing moves when the plan arrives.
    this.#table.replaceChildren(...this.#inOrder().map((name) => row(name, this.#columns().slice(1).map(() => "…"))));
  }

  #columns() {
    return [say("Device"), say("Weights"), say("Staging"), say("Free"), say("Left for the image")];
  }

  #cancelButton() {
    return button(say("Cancel"), () => this.#dialog.close());
  }

  #type(expert) {
    this.#text.value = expert;
    this.#ask();
  }

  #take(shares) {
    this.#wished = expertString(shares);
    this.#type(this.#wished);
  }

  #write() {
    this.#allocation.write(this.#text.value.trim(), this.#strategy.value);
    this.#dialog.close();
  }

  /** One question at a time; what changed meanwhile is asked afterwards, once. Unplanned, nothing can be written. */
  async #ask() {
    this.#apply.disabled = true;
    if (this.#isAsking) {
      this.#isOutdated = true;
      return;
    }
    this.#isAsking = true;
    do {
      this.#isOutdated = false;
      const wish = this.#allocation.wish(this.#text.value, this.#strategy.value, this.#names());
      let answer;
      try {
        answer = wish.files.length ? await server.plan(wish) : refusal(NO_FILE());
      } catch (error) {
        answer = refusal(error.message);
      }
      if (!this.#isOutdated) this.#show(answer, wish.expert);
    } while (this.#isOutdated);
    this.#isAsking = false;
  }

  #show(answer, expert) {
    this.#dialog.dataset.fits = String(answer.fits);
    this.#apply.disabled = !answer.fits;
    this.#text.setAttribute("aria-invalid", String(!answer.fits));
    if (!answer.fits) {
      this.#message.replaceChildren(...explained(answer.error, expert));
      this.#prediction.textContent = "";
      return;
    }
    this.#message.replaceChildren(...answer.warnings.map((warning) => element("p", { class: "multigpu-warning" }, warning)));
    this.#bar.show(answer.bytes_by_device, answer.total_bytes, expert === this.#wished);
    this.#strip.replaceChildren(blockStrip(answer.blocks, this.#names()), relayNote(answer.blocks) ?? "");
    this.#table.replaceChildren(...this.#rows(answer));
    this.#prediction.replaceChildren(...predicted(answer));
  }

  #rows(answer) {
    return this.#inOrder().map((name) => {
      const room = answer.room_bytes[name] ?? 0;
      const weights = answer.bytes_by_device[name] ?? 0;
      const staging = name === answer.compute_device ? answer.staging_bytes : 0;
      return row(name, [weights, staging, room, room - weights - staging].map(bytes));
    });
  }
}

function row(name, cells) {
  return element("tr", {}, element("th", { scope: "row" }, name), cells.map((text) => element("td", {}, text)));
}

/**
 * The string for shares in bytes, by device in order. Percentages: they mean the same blocks when weights are loaded in
 * another type than the file's.
 */
export function expertString(shares) {
  const total = [...shares.values()].reduce((sum, size) => sum + size, 0);
  const [[compute], ...others] = [...shares];
  const used = [[compute, shares.get(compute)], ...others.filter(([, size]) => size > total / 2000)];
  return used.map(([name, size]) => `${name},${((100 * size) / total).toFixed(1)}%`).join(";");
}

function predicted(answer) {
  if (answer.predicted_seconds === null) return [say("No step time is predicted for simulated devices.")];
  const bound = answer.bound_by === "compute" ? say("computing") : say("the link from {device}", { device: answer.bound_by });
  const speeds = answer.assumes ? ` ${say("(assumes {machine}; measure to replace)", { machine: answer.assumes })}` : "";
  const [step, best] = [seconds(answer.predicted_seconds), seconds(answer.limit_seconds)];
  return [say("A step: {step} predicted{speeds}, {best} at best, bound by {bound}.", { step, speeds, best, bound })];
}

/** What is wrong, with the fault marked in the string where it is there. */
function explained(error, expert) {
  const parts = [element("p", {}, error.message)];
  if (error.start !== undefined && expert) {
    const end = Math.max(error.end, error.start + 1);
    const fault = element("mark", {}, expert.slice(error.start, end) || "…");
    parts.unshift(element("p", { class: "multigpu-fault" }, expert.slice(0, error.start), fault, expert.slice(end)));
  }
  if (error.suggestion) parts.push(element("p", {}, error.suggestion));
  return parts;
}

const NO_FILE = () => say("The node names no model file.");
const refusal = (message) => ({ fits: false, error: { message } });
