// What the page asks of our routes. Each answer is JSON; a refusal throws an Error with the server's own words.

import { api } from "../../scripts/api.js";

async function ask(route, body) {
  const options = body === undefined ? {} : {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
  const answer = await api.fetchApi(route, options);
  const text = await answer.text();
  if (!answer.ok) throw new Error(messageOf(text) || `${answer.status} ${answer.statusText}`);
  return text ? JSON.parse(text) : null;
}

function messageOf(text) {
  try {
    return JSON.parse(text).message;
  } catch {
    return text;
  }
}

export const state = () => ask("/multigpu/state");
export const plugins = () => ask("/multigpu/plugins");
export const plan = (widgets) => ask("/multigpu/plan", widgets);
export const keep = (key, keepLoaded) => ask("/multigpu/keep", { key, keep_loaded: keepLoaded });
export const unload = (key) => ask("/multigpu/unload", { key });
export const measureSpeeds = () => ask("/multigpu/profile", {});
/** Which node class, and which of its inputs, chooses the device of a node of this type; made if there is none. */
export const deviceChoice = (nodeId) => ask("/multigpu/device-choice", { node_id: nodeId });
export const nodeDefinition = async (nodeId) => (await ask(`/object_info/${encodeURIComponent(nodeId)}`))[nodeId];
/** Call `listener` with each figure that is measured, until the returned function is called. */
export function whenMeasured(listener) {
  const take = (event) => listener(event.detail);
  api.addEventListener("multigpu.measured", take);
  return () => api.removeEventListener("multigpu.measured", take);
}
export const freeEverything = () => ask("/free", { unload_models: true, free_memory: true });
