// Go to a node of the workflow that is open, also inside a subgraph.

import { app } from "../../scripts/app.js";

/** Select and centre the node with the id that ComfyUI ran it by (`12`, in a subgraph `5:12`); false if there is none. */
export function showNode(id, type) {
  const path = String(id).split(":");
  let graph = app.rootGraph ?? app.graph;
  for (const part of path.slice(0, -1)) graph = graph?.getNodeById(part)?.subgraph;
  const node = graph?.getNodeById(path.at(-1));
  if (!node || (type && node.type !== type)) return false;
  if (app.canvas.graph !== graph) app.canvas.setGraph(graph);
  app.canvas.selectNode(node);
  app.canvas.centerOnNode(node);
  return true;
}
