// What plans and predictions go by: this machine's own speeds, or the published ones until those are measured.

import { button, element } from "./elements.js";
import * as server from "./server.js";
import { say } from "./words.js";

export class Speeds {
  element;
  #text = element("p", { class: "multigpu-detail" });
  #progress = element("progress", { hidden: true, "aria-label": say("Measuring the speeds of this machine") });
  #measure;
  #isMeasured = null;

  constructor() {
    this.#measure = button(say("Measure"), () => this.#run(), {
      title: say("Measure every link and device: takes under 20 seconds, while no prompt runs"),
    });
    this.element = element(
      "section",
      { "aria-label": say("Speeds") },
      element("div", { class: "multigpu-line" }, element("h3", {}, say("Speeds")), this.#measure),
      this.#text,
      this.#progress,
    );
  }

  show(isMeasured) {
    if (isMeasured === this.#isMeasured) return; // what went wrong stays to be read
    this.#isMeasured = isMeasured;
    this.#text.textContent = isMeasured
      ? say("Measured on this machine.")
      : say("Published speeds for this kind of device. Measure yours for better predictions and a better “auto”.");
  }

  async #run() {
    this.#measure.disabled = true;
    this.#progress.hidden = false;
    this.#progress.removeAttribute("value"); // until the first figure
    const stop = server.whenMeasured(({ what, number, total }) => {
      this.#progress.max = total;
      this.#progress.value = number;
      this.#text.textContent = say("Measured {what}.", { what });
    });
    try {
      await server.measureSpeeds();
      this.#isMeasured = null;
      this.show(true);
    } catch (error) {
      this.#text.textContent = error.message;
    } finally {
      stop();
      this.#progress.hidden = true;
      this.#measure.disabled = false;
    }
  }
}
