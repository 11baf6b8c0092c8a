// "Choose device…" in a node's context menu: the node becomes its variant with a choice of device, in its place.

import { app } from "../../scripts/app.js";
import * as server from "./server.js";
import { say } from "./words.js";

const SUFFIX = "MultiGPU";

/** The items that ComfyUI adds to the menu of `node`; `devices` are the names that there are. */
export function deviceMenu(node, devices) {
  const isBackendNode = node.constructor?.nodeData && !node.isVirtualNode && !node.isSubgraphNode?.();
  if (!isBackendNode || !devices.length) return [];
  const options = devices.map((device) => ({ content: device, callback: () => chooseDevice(node, device) }));
  return [{ content: say("Choose device…"), submenu: { options } }];
}

/** Let `node` run on `device`: by its own input, or as its variant. Resolves to the node that is there then. */
export async function chooseDevice(node, device) {
  try {
    const choice = await server.deviceChoice(node.constructor.comfyClass ?? node.type);
    await register(choice.node_id);
    return asOneChange(() => {
      const chosen = choice.node_id === node.type ? node : replaceNode(node, choice.node_id);
      setValue(chosen, choice.device_input, device, true);
      return chosen;
    });
  } catch (error) {
    app.extensionManager?.toast?.add?.({ severity: "error", summary: "MultiGPU", detail: error.message, life: 10_000 });
    return node;
  }
}

/** Make the variants that a workflow names and that the server has not made yet. */
export async function makeVariantsOf(workflow) {
  const graphs = [workflow, ...(workflow?.definitions?.subgraphs ?? [])];
  const types = new Set(graphs.flatMap((graph) => (graph?.nodes ?? []).map((node) => node.type)));
  await Promise.all([...types].filter(isMissingVariant).map(makeVariant));
}

function isMissingVariant(type) {
  return typeof type === "string" && type.endsWith(SUFFIX) && !isRegistered(type);
}

async function makeVariant(type) {
  try {
    const choice = await server.deviceChoice(type.slice(0, -SUFFIX.length));
    await register(choice.node_id);
  } catch (error) {
    console.info(`MultiGPU cannot make ${type}: ${error.message}`); // ComfyUI shows it among the missing nodes
  }
}

const isRegistered = (type) => type in LiteGraph.registered_node_types;

async function register(type) {
  if (isRegistered(type)) return;
  await app.registerNodeDef(type, await server.nodeDefinition(type));
}

function asOneChange(change) {
  app.canvas.emitBeforeChange();
  try {
    return change();
  } finally {
    app.canvas.emitAfterChange();
    app.canvas.setDirty(true, true);
  }
}

/** Put a node of another type in the place of `node`, with its id, looks, values and links. */
function replaceNode(node, type) {
  const { graph, id, order, mode } = node;
  const made = LiteGraph.createNode(type);
  const links = takeLinks(node);
  const [pos, size] = [[...node.pos], [...node.size]];
  graph.remove(node);
  Object.assign(made, { id, mode, pos, flags: { ...node.flags } });
  graph.add(made);
  Object.assign(made, { order, ...looksOf(node) });
  Object.assign(made.properties, node.properties, { "Node name for S&R": type });
  for (const widget of node.widgets ?? []) setValue(made, widget.name, widget.value);
  const least = made.computeSize();
  made.setSize([Math.max(size[0], least[0]), Math.max(size[1], least[1])]);
  giveLinks(made, links, graph);
  return made;
}

/** What a user may have changed; a title that nobody has changed is left to the variant. */
function looksOf(node) {
  const { title, color, bgcolor, shape } = node;
  const looks = { color, bgcolor, shape, title: title === node.constructor.title ? undefined : title };
  return Object.fromEntries(Object.entries(looks).filter(([, value]) => value !== undefined));
}

/** Take the links off a node without ending them: they keep their ids, and with them their reroutes. */
function takeLinks(node) {
  const inputs = (node.inputs ?? []).filter((input) => input.link != null).map((input) => [input.name, input.link]);
  const outputs = (node.outputs ?? []).map((output) => output.links);
  for (const input of node.inputs ?? []) input.link = null;
  for (const output of node.outputs ?? []) output.links = null;
  return { inputs, outputs };
}

function giveLinks(node, { inputs, outputs }, graph) {
  for (const [name, id] of inputs) {
    const slot = node.inputs.findIndex((input) => input.name === name);
    if (slot < 0) {
      graph.removeLink(id);
      continue;
    }
    node.inputs[slot].link = id;
    graph.getLink(id).target_slot = slot;
  }
  outputs.forEach((links, slot) => {
    if (node.outputs[slot]) node.outputs[slot].links = links;
  });
}

function setValue(node, name, value, isChosen = false) {
  const widget = node.widgets?.find((each) => each.name === name);
  if (!widget) return;
  widget.value = value;
  if (isChosen) widget.callback?.(value);
}
