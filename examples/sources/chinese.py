"""Chinese for what our nodes and our page say: by the English sentence, or by the name of an input or node."""

from __future__ import annotations

SUBJECTS = {
    "this model": "此模型",
    "the diffusion model": "扩散模型",
    "the text encoder": "文本编码器",
    "the VAE": "VAE",
}
PREFIXES = {"unet_": "扩散模型", "clip_": "文本编码器", "vae_": "VAE"}
INPUTS = {
    "device": "设备",
    "compute_device": "计算设备",
    "virtual_vram_gb": "虚拟显存 (GB)",
    "donor_device": "存放设备",
    "use_other_vram": "使用其他显存",
    "expert_mode_allocations": "分配字符串",
    "strategy": "策略",
    "eject_models": "先卸载其他模型",
    "keep_loaded": "保持加载",
    "high_precision_loras": "高精度 LoRA",
    "offload_device": "等待设备",
    "load_device": "加载设备",
    "swap_device": "交换设备",
}
TOOLTIPS = {
    "The device that stores and computes {subject}.": "存放并计算{subject}的设备。",
    "The device that computes {subject}, and stores what the donors do not. Its remaining memory is for inference and for "
    "streamed weights.": "计算{subject}的设备，并存放其他设备不存放的部分。其余显存用于推理和流式传输的权重。",
    "The device that this node computes on; the models that it uses go there.": "此节点计算所用的设备；它使用的模型会移到那里。",
    "The device that this node works with.": "此节点使用的设备。",
    "The device to run on: link it to the output of that name of the model's loader, or to a Device Selector. Without a "
    "link the node runs on the model's own device.": "运行所用的设备：连接到模型加载器的同名输出，或连接到设备选择器。"
    "不连接时，节点在模型自己的设备上运行。",
    "Where the model waits while it is not needed: the cpu, or a GPU with free memory.": "模型不使用时存放的位置：cpu，"
    "或有空闲显存的 GPU。",
    "How many GB (of 1024³ bytes) of {subject} to store on the donor instead of the compute device. More than the model's "
    "size offloads all that can be; 0 does not split.": "把{subject}的多少 GB（1024³ 字节）存放到存放设备而不是计算设备。"
    "大于模型大小则卸载所有可卸载的部分；0 表示不拆分。",
    "The device that stores the offloaded weights; they are prefetched to the compute device. What does not fit there "
    "goes to the cpu.": "存放被卸载权重的设备；这些权重会预取到计算设备。放不下的部分存放到 cpu。",
    "Store them on the other GPUs, one after the other, and on the cpu last. Off: on the cpu only.": "依次存放到其他 GPU，"
    "最后是 cpu。关闭：只存放到 cpu。",
    "Each device's share of {subject}; overrides virtual VRAM. Bytes (cuda:0,2.5gb;cuda:1,3g;cpu,*), ratios "
    "(cuda:0,25%;cpu,75%), fractions of each device's memory (cuda:0,0.21;cpu,0.08), or auto. * takes the rest. The log "
    "shows the string of every plan.": "每个设备存放{subject}的份额；优先于虚拟显存。字节 (cuda:0,2.5gb;cuda:1,3g;cpu,*)、"
    "比例 (cuda:0,25%;cpu,75%)、各设备显存的分数 (cuda:0,0.21;cpu,0.08) 或 auto。* 取其余部分。日志显示每个方案的字符串。",
    "Unload other models from the compute device before this one is loaded. Models with keep_loaded stay.": "加载此模型前，"
    "从计算设备卸载其他模型。带 keep_loaded 的模型保留。",
    "Keep this model on its devices when ComfyUI is asked to unload all models, and when it forgets this node's output. It "
    "is still unloaded if another model needs the memory, or if everything is freed.": "当 ComfyUI 卸载所有模型或丢弃此节点"
    "的输出时，此模型保留在其设备上。如果其他模型需要显存，或释放全部时，它仍会被卸载。",
    "Apply LoRAs on the compute device, as for a model that is not split: the same image. Off: on the device that stores "
    "the weight.": "在计算设备上应用 LoRA，与未拆分的模型相同：图像一致。关闭：在存放权重的设备上应用。",
    "The device that keeps the swapped blocks.": "存放被交换的块的设备。",
    "The former name of extra_model.": "extra_model 的旧名称。",
    "interleave spreads the offloaded blocks over the model, so that their transfers can hide behind compute; contiguous "
    "offloads the beginning of the model in one piece; parallel lets the other GPUs compute a part of each step with a "
    "copy of the model, in proportion to their shares; relay lets the other GPUs compute the blocks that they store, so "
    "that activations travel instead of weights. plugins.toml sets the default.": "interleave 把卸载的块分散在模型中，使传输"
    "隐藏在计算之后；contiguous 把模型的开头整段卸载；parallel 让其他 GPU 用模型的副本按份额计算每一步的一部分；relay 让其他 GPU 计算它们存放的块，传输的是激活而不是权重。"
    "plugins.toml 设置默认值。",
}
LOADERS = {
    "UNETLoader": "加载扩散模型",
    "CLIPLoader": "加载 CLIP",
    "DualCLIPLoader": "加载 CLIP（双）",
    "TripleCLIPLoader": "加载 CLIP（三）",
    "QuadrupleCLIPLoader": "加载 CLIP（四）",
    "CLIPVisionLoader": "加载 CLIP 视觉",
    "VAELoader": "加载 VAE",
    "CheckpointLoaderSimple": "加载检查点",
    "ControlNetLoader": "加载 ControlNet 模型",
    "DiffControlNetLoader": "加载 ControlNet 模型（diff）",
    "DiffusersLoader": "加载 Diffusers 模型（已弃用）",
    "unCLIPCheckpointLoader": "加载 unCLIP 检查点",
    "ImageOnlyCheckpointLoader": "加载检查点（仅图像，img2vid）",
    "LTXAVTextEncoderLoader": "加载 LTXV 音频文本编码器",
    "LTXVAudioVAELoader": "加载 LTXV 音频 VAE",
    "GLIGENLoader": "加载 GLIGEN 模型",
    "ModelPatchLoader": "加载模型补丁",
    "LatentUpscaleModelLoader": "加载潜空间放大模型",
    "AudioEncoderLoader": "加载音频编码器",
    "PhotoMakerLoader": "加载 PhotoMaker 模型",
    "StyleModelLoader": "加载风格模型",
    "FrameInterpolationModelLoader": "加载插帧模型",
    "LoadBackgroundRemovalModel": "加载去背景模型",
    "UpscaleModelLoader": "加载放大模型",
    "DeviceSelectorMultiGPU": "设备选择器",
    "UNetLoaderLP": "加载扩散模型",
}
"""Of ComfyUI and of ours; a pack's loader is called as its pack calls it."""
SPLIT, PLACED, COMPUTED = (
    "{target}：权重分布在多个设备上。",
    "{target}：在所选的设备上。",
    "{target}：在所选的设备上计算。",
)
CATEGORIES = {"multigpu": "多 GPU", "device": "设备", "split": "拆分"}
COMMANDS = {
    "MultiGPU: show devices and models": "MultiGPU：显示设备和模型",
    "MultiGPU: edit the allocation of the selected node": "MultiGPU：编辑所选节点的分配",
    "MultiGPU: free everything": "MultiGPU：释放全部",
}
PAGE = {
    "(assumes {machine}; measure to replace)": "（假定 {machine}；请测量以替换）",
    "A step took": "一步用时",
    "A step: {step} predicted{speeds}, {best} at best, bound by {bound}.": "一步：预计 {step}{speeds}，最快 {best}，受限于{bound}。",
    "Allocation of {node}": "{node} 的分配",
    "Allocation string": "分配字符串",
    "Apply": "应用",
    "Automatic": "自动",
    "Border between {left} and {right}": "{left} 与 {right} 的边界",
    "Cancel": "取消",
    "Choose device…": "选择设备…",
    "ComfyUI does not respond: {error}": "ComfyUI 没有响应：{error}",
    "ComfyUI's prompt worker has died: {fault}. Restart ComfyUI to run prompts.": "ComfyUI 的任务线程已终止：{fault}。请重启 ComfyUI。",
    "Copied the allocation string.": "已复制分配字符串。",
    "Copy the allocation string": "复制分配字符串",
    "Copy": "复制",
    "Device": "设备",
    "Devices": "设备",
    "Drag the borders, or move them with the arrow keys.": "拖动边界，或用方向键移动。",
    "Free everything": "释放全部",
    "Free": "空闲",
    "Freeing everything as soon as ComfyUI is idle.": "ComfyUI 空闲后释放全部。",
    "Keep the model when ComfyUI is asked to unload models": "ComfyUI 卸载模型时保留此模型",
    "Keep": "保留",
    "Left for the image": "留给图像",
    "Loaded models": "已加载的模型",
    "Measure every link and device: takes under 20 seconds, while no prompt runs": "测量每条链路和每个设备：不到 20 秒，须无任务运行",
    "Measure": "测量",
    "Measured on this machine.": "已在本机测量。",
    "Measured {what}.": "已测量 {what}。",
    "Measuring the speeds of this machine": "正在测量本机速度",
    "MultiGPU: devices and the models on them": "MultiGPU：设备及其上的模型",
    "No step time is predicted for simulated devices.": "模拟设备不预测步时。",
    "Node {id} is not in the workflow that is open.": "节点 {id} 不在当前打开的工作流中。",
    "None.": "无。",
    "Plugins": "插件",
    "Published speeds for this kind of device. Measure yours for better predictions and a better “auto”.": "使用此类设备的公开速度。测量本机可获得更好的预测和更好的“auto”。",
    "Reading the devices…": "正在读取设备…",
    "Select a split node (DisTorch2) first.": "请先选择一个拆分节点 (DisTorch2)。",
    "Shares of the model": "模型的份额",
    "Show the node that loaded the model": "显示加载此模型的节点",
    "Speeds": "速度",
    "Staging": "暂存",
    "Strategy": "策略",
    "The browser refuses to copy: {error}": "浏览器拒绝复制：{error}",
    "The model's blocks in execution order:": "按执行顺序排列的模型块：",
    "The node names no model file.": "此节点没有模型文件。",
    "Underlined: computed where it is stored (relay). Activations travel, weights stay.": "带下划线：在存放处计算 (relay)。传输激活，权重不动。",
    "Unload every model, including kept ones, and clear all cached outputs": "卸载所有模型（包括保留的），并清除所有缓存的输出",
    "Unload the model from all devices to system memory": "把模型从所有设备卸载到系统内存",
    "Unload": "卸载",
    "Unloaded {model}.": "已卸载 {model}。",
    "Weights": "权重",
    "allocation": "分配",
    "computing": "计算",
    "empty: use virtual VRAM and donor; auto: the fastest plan that fits": "留空：使用虚拟显存和存放设备；auto：放得下的最快方案",
    "free": "空闲",
    "kept by {node}": "由 {node} 保留",
    "loaded by a ComfyUI node or another pack": "由 ComfyUI 节点或其他节点包加载",
    "moved in a step": "每步传输",
    "node {id}": "节点 {id}",
    "not yet measured": "尚未测量",
    "other programs": "其他程序",
    "predicted": "预计",
    "staging": "暂存",
    "the link from {device}": "来自 {device} 的链路",
    "{celsius} °C": "{celsius} °C",
    "{count} blocks in execution order: {summary}": "按执行顺序的 {count} 个块：{summary}",
    "{count} on {device}": "{device} 上 {count} 个",
    "{free} of {total} free": "空闲 {free} / {total}",
    "{name}, split ({strategy}), computes on {device}": "{name}，已拆分 ({strategy})，在 {device} 上计算",
    "{name}, whole": "{name}，完整",
    "{name}: {size} on {device}": "{name}：{size}，在 {device} 上",
    "{name}: {size} on {device}, computed there": "{name}：{size}，在 {device} 上存放并计算",
    "{percent} % busy": "占用 {percent} %",
}
