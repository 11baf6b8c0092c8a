// A bar of shares with a border between each two devices, to be dragged or moved with the keyboard. A border that meets
// the next one pushes it along. Borders in one place are drawn side by side, so that each can be taken.

import { deviceColor } from "./device_colors.js";
import { bytes, element } from "./elements.js";
import { say } from "./words.js";

const STEP = 0.01;
const LARGE_STEP = 0.1;
const HANDLE_PIXELS = 11;

export class ShareBar {
  #devices;
  #onChange;
  #total = 1;
  #borders; // fractions of the model, one fewer than devices
  #segments;
  #handles;

  constructor(devices, onChange) {
    this.#devices = devices;
    this.#onChange = onChange;
    this.#borders = devices.slice(1).map(() => 1);
    this.#segments = devices.map((name) =>
      element("span", { class: "multigpu-segment", style: { "--device": deviceColor(name, devices) } }),
    );
    this.#handles = this.#borders.map((_, index) => this.#handle(index));
    this.element = element(
      "div",
      { class: "multigpu-sharebar", role: "group", "aria-label": say("Shares of the model") },
      this.#segments,
      this.#handles,
    );
    this.#draw();
  }

  /** Show what a plan came to, but leave borders where the user has put them: plans are made of whole blocks. */
  show(bytesByDevice, totalBytes, isWished) {
    this.#total = totalBytes || 1;
    if (!isWished) {
      let sum = 0;
      this.#borders = this.#devices.slice(0, -1).map((name) => (sum += bytesByDevice[name] ?? 0) / this.#total);
    }
    this.#draw();
  }

  #handle(index) {
    const [left, right] = [this.#devices[index], this.#devices[index + 1]];
    const handle = element("span", {
      class: "multigpu-handle",
      role: "slider",
      tabindex: "0",
      "aria-label": say("Border between {left} and {right}", { left, right }),
      "aria-valuemin": "0",
      "aria-valuemax": "100",
    });
    let held = 0; // how far from its border the handle was taken
    handle.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      const box = this.element.getBoundingClientRect();
      held = event.clientX - box.left - this.#borders[index] * box.width;
      handle.setPointerCapture(event.pointerId);
      handle.focus();
    });
    handle.addEventListener("pointermove", (event) => {
      if (!handle.hasPointerCapture(event.pointerId)) return;
      const box = this.element.getBoundingClientRect();
      this.#move(index, (event.clientX - held - box.left) / box.width);
    });
    handle.addEventListener("keydown", (event) => {
      const to = this.#keyTarget(event, this.#borders[index]);
      if (to === null) return;
      event.preventDefault();
      this.#move(index, to);
    });
    return handle;
  }

  #keyTarget(event, at) {
    const step = event.shiftKey ? LARGE_STEP : STEP;
    switch (event.key) {
      case "ArrowLeft":
      case "ArrowDown":
        return at - step;
      case "ArrowRight":
      case "ArrowUp":
        return at + step;
      case "Home":
        return 0;
      case "End":
        return 1;
      default:
        return null;
    }
  }

  #move(index, to) {
    const at = Math.min(1, Math.max(0, to));
    this.#borders = this.#borders.map((border, other) => {
      if (other < index) return Math.min(border, at);
      return other > index ? Math.max(border, at) : at;
    });
    this.#draw();
    this.#onChange(this.#shares());
  }

  #shares() {
    const ends = [...this.#borders, 1];
    return new Map(this.#devices.map((name, index) => [name, (ends[index] - (ends[index - 1] ?? 0)) * this.#total]));
  }

  /** By how many pixels a handle is beside its border, where others are in the same place. */
  #aside(index) {
    const at = this.#borders[index];
    const together = this.#borders.flatMap((border, other) => (Math.abs(border - at) < STEP / 2 ? [other] : []));
    const middle = at < STEP ? 0 : at > 1 - STEP ? together.length - 1 : (together.length - 1) / 2;
    return HANDLE_PIXELS * (together.indexOf(index) - middle);
  }

  #draw() {
    const shares = this.#shares();
    this.#devices.forEach((name, index) => {
      const share = shares.get(name);
      const segment = this.#segments[index];
      segment.style.width = `${(100 * share) / this.#total}%`;
      segment.textContent = share / this.#total > 0.12 ? `${name} ${bytes(share)}` : "";
      segment.title = `${name}: ${bytes(share)}`;
    });
    this.#borders.forEach((border, index) => {
      const handle = this.#handles[index];
      handle.style.left = `calc(${100 * border}% + ${this.#aside(index)}px)`;
      handle.setAttribute("aria-valuenow", String(Math.round(100 * border)));
      const [left, right] = [this.#devices[index], this.#devices[index + 1]];
      handle.setAttribute("aria-valuetext", `${left} ${bytes(shares.get(left))}, ${right} ${bytes(shares.get(right))}`);
    });
  }
}
