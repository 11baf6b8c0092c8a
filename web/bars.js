// The bars: how full a device is, and where each block of a model is. Both are pictures with a sentence for those who
// do not see them.

import { deviceColor } from "./device_colors.js";
import { bytes, element } from "./elements.js";
import { say } from "./words.js";

/** A device's memory: what each model has there, its staging, what others use, and what is free. */
export function deviceBar(device, models, devices) {
  const parts = [];
  for (const model of models) {
    const size = model.bytes_by_device[device.name] ?? 0;
    if (size) parts.push({ kind: "model", size, text: `${model.title}: ${bytes(size)}` });
    const staging = model.split?.compute_device === device.name ? model.split.staging_bytes : 0;
    if (staging) parts.push({ kind: "staging", size: staging, text: `${model.title}, ${say("staging")}: ${bytes(staging)}` });
  }
  const known = parts.reduce((sum, part) => sum + part.size, 0);
  const other = Math.max(0, device.total_bytes - device.free_bytes - known);
  if (other > device.total_bytes / 500) parts.push({ kind: "other", size: other, text: `${say("other programs")}: ${bytes(other)}` });
  const summary = parts.map((part) => part.text).concat(`${say("free")}: ${bytes(device.free_bytes)}`).join(", ");
  return element(
    "div",
    { class: "multigpu-bar", role: "img", "aria-label": `${device.name}: ${summary}` },
    parts.map((part) =>
      element("span", {
        class: `multigpu-part multigpu-${part.kind}`,
        title: part.text,
        style: {
          width: `${(100 * part.size) / device.total_bytes}%`,
          "--device": deviceColor(device.name, devices),
        },
      }),
    ),
  );
}

/** A model's blocks in execution order, as wide as they are large, coloured by where they are. */
export function blockStrip(blocks, devices) {
  const total = blocks.reduce((sum, block) => sum + block.bytes, 0) || 1;
  const counts = new Map();
  for (const block of blocks) counts.set(block.device, (counts.get(block.device) ?? 0) + 1);
  const summary = [...counts].map(([device, count]) => say("{count} on {device}", { count, device })).join(", ");
  return element(
    "div",
    { class: "multigpu-strip", role: "img", "aria-label": say("{count} blocks in execution order: {summary}", { count: blocks.length, summary }) },
    blocks
      .filter((block) => block.bytes)
      .map((block) =>
        element("span", {
          class: block.relayed ? "multigpu-block multigpu-relayed" : "multigpu-block",
          title: titleOf(block),
          "data-device": block.device,
          style: { "flex-grow": String(block.bytes / total), "--device": deviceColor(block.device, devices) },
        }),
      ),
  );
}

function titleOf({ name, bytes: size, device, relayed }) {
  const values = { name, size: bytes(size), device };
  return relayed ? say("{name}: {size} on {device}, computed there", values) : say("{name}: {size} on {device}", values);
}

/** What the double line under blocks means, where there is one. */
export function relayNote(blocks) {
  if (!blocks.some((block) => block.relayed)) return null;
  return element("p", { class: "multigpu-hint" }, say("Underlined: computed where it is stored (relay). Activations travel, weights stay."));
}

/** Which colour is which device, with the bytes on each. */
export function legend(bytesByDevice, devices) {
  return element(
    "ul",
    { class: "multigpu-legend" },
    Object.entries(bytesByDevice)
      .filter(([, size]) => size)
      .map(([device, size]) =>
        element(
          "li",
          {},
          element("span", { class: "multigpu-swatch", style: { "--device": deviceColor(device, devices) } }),
          `${device} ${bytes(size)}`,
        ),
      ),
  );
}
