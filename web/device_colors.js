// One colour for each device, the same in every bar: far apart for eyes that tell red from green and for those that
// do not (the palette of Okabe and Ito), on dark ground and on light.

const PALETTE = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"];
const CPU = "#8a8f98";

export function deviceColor(device, devices) {
  if (device === "cpu") return CPU;
  const accelerators = devices.filter((name) => name !== "cpu");
  return PALETTE[Math.max(0, accelerators.indexOf(device)) % PALETTE.length];
}
