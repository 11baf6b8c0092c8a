// A split node's widgets, read and written: all that this page knows of the nodes' inputs.

const EXPERT = "expert_mode_allocations";
const MODEL_FILE = /\.(safetensors|sft|gguf|ckpt|pt|pt2|pth|bin)$/i;
const CHECKPOINT = "ckpt_name";
const PARTS = { unet_: "diffusion_model", clip_: "text_encoder", vae_: "vae" };

/** What can be allocated in a node: one for most, one for each part of a checkpoint. */
export function allocationsOf(node) {
  return (node.widgets ?? [])
    .filter((widget) => widget.name?.endsWith(EXPERT))
    .map((widget) => new Allocation(node, widget.name.slice(0, -EXPERT.length)));
}

export class Allocation {
  constructor(node, prefix) {
    this.node = node;
    this.prefix = prefix;
  }

  get title() {
    return this.node.title || this.node.type;
  }

  get buttonLabel() {
    return this.prefix ? `edit allocation: ${this.prefix.replace("_", "")}` : "edit allocation";
  }

  /** The files of the model; a checkpoint beside others is there for something else. */
  get files() {
    const all = this.node.widgets
      .filter((widget) => typeof widget.value === "string" && MODEL_FILE.test(widget.value))
      .map((widget) => ({ input: widget.name, name: widget.value }));
    const own = all.filter((file) => file.input !== CHECKPOINT);
    return own.length ? own : all;
  }

  /** Which model of a checkpoint; of a file that holds one model, none. */
  get part() {
    if (this.prefix) return PARTS[this.prefix] ?? null;
    const isCheckpoint = this.files.every((file) => file.input === CHECKPOINT);
    return isCheckpoint && this.node.outputs?.[0]?.type === "VAE" ? PARTS.vae_ : null;
  }

  get expert() {
    return this.#value(EXPERT) ?? "";
  }

  get strategy() {
    return this.#widget("strategy", "")?.value ?? "interleave";
  }

  /** The names that the node's own widget offers, as the server listed them. */
  get strategies() {
    return this.#widget("strategy", "")?.options?.values ?? [];
  }

  get hasStrategy() {
    return this.#widget("strategy", "") !== undefined;
  }

  computeDevice(devices) {
    const chosen = this.#value("compute_device") ?? this.#value("device");
    return chosen ?? devices.find((device) => device !== "cpu") ?? "cpu";
  }

  /** The body that our plan route takes, with another string and strategy than the node's. */
  wish(expert, strategy, devices) {
    return {
      files: this.files,
      part: this.part,
      compute_device: this.computeDevice(devices),
      virtual_vram_gb: Number(this.#value("virtual_vram_gb") ?? 0),
      donor_device: this.#value("use_other_vram") ? this.#others(devices).join(",") : this.#value("donor_device") ?? "cpu",
      weight_dtype: this.#widget("weight_dtype", "")?.value ?? "default",
      expert,
      strategy,
    };
  }

  write(expert, strategy) {
    set(this.#widget(EXPERT), expert);
    if (this.hasStrategy) set(this.#widget("strategy", ""), strategy);
    this.node.graph?.setDirtyCanvas?.(true, true);
    this.node.graph?.change?.();
  }

  /** What the older nodes' switch means: the other cards, and the cpu last. */
  #others(devices) {
    const compute = this.computeDevice(devices);
    return [...devices.filter((device) => device !== compute && device !== "cpu"), "cpu"];
  }

  #value(name) {
    return this.#widget(name)?.value;
  }

  #widget(name, prefix = this.prefix) {
    return this.node.widgets.find((widget) => widget.name === prefix + name);
  }
}

function set(widget, value) {
  widget.value = value;
  widget.callback?.(value);
}
