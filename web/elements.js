// Makes elements, and writes sizes and times as people read them.

/** An element with attributes, properties (`onclick`, `value`) and children; what is null or false is left out. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on") || name === "value" || name === "style") assign(made, name, value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

export function button(label, onclick, attributes = {}) {
  const { class: more = "", ...others } = attributes;
  return element("button", { type: "button", class: `multigpu-button ${more}`.trim(), onclick, ...others }, label);
}

function assign(made, name, value) {
  if (name === "style") {
    for (const [property, text] of Object.entries(value)) made.style.setProperty(property, text);
  } else made[name] = value;
}

const GIB = 2 ** 30;
const MIB = 2 ** 20;

/** 12.3 GB, 512 MB: units of 1024, as ComfyUI and our log write them. */
export function bytes(size) {
  if (Math.abs(size) >= 0.95 * GIB) return `${short(size / GIB)} GB`;
  if (Math.abs(size) >= 0.95 * MIB) return `${short(size / MIB)} MB`;
  return size ? `${Math.max(1, Math.round(size / 1024))} KB` : "0";
}

const short = (number) => number.toFixed(Math.abs(number) >= 99.95 ? 0 : 1);

/** 1.23 s, 45 ms. */
export function seconds(duration) {
  if (duration >= 1) return `${duration.toPrecision(3)} s`;
  return `${(duration * 1000).toPrecision(3)} ms`;
}
