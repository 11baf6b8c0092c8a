"""A stand-in for ComfyUI-GGUF, which no registry has: the same names, inputs and results, and the same habits.

Its tensors report a logical shape, give themselves where a copy is asked for, and keep their attributes only through
`.to()`; its patcher makes clones of its own class, patches every weight whatever the memory, and hangs the patches of a
quantised weight on the tensor. A test compares it with the real pack where that is at hand.
"""

from __future__ import annotations

import comfy.float
import comfy.lora
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.utils
import folder_paths
import torch

import gguf

PLAIN = (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16)
folder_paths.folder_names_and_paths.setdefault(
    "unet_gguf", (folder_paths.folder_names_and_paths["diffusion_models"][0], {".gguf"})
)


class GGMLTensor(torch.Tensor):
    def __new__(cls, data, tensor_type, tensor_shape, patches=()):
        return super().__new__(cls, data)

    def __init__(self, data, tensor_type, tensor_shape, patches=()):
        super().__init__()
        self.tensor_type, self.tensor_shape, self.patches = tensor_type, tensor_shape, list(patches)

    def to(self, *args, **kwargs):
        moved = super().to(*args, **kwargs)
        moved.tensor_type, moved.tensor_shape = self.tensor_type, self.tensor_shape
        moved.patches = list(self.patches)
        return moved

    def clone(self, *args, **kwargs):
        return self

    def detach(self, *args, **kwargs):
        return self

    @property
    def shape(self):
        return self.tensor_shape if hasattr(self, "tensor_shape") else self.size()


def is_quantized(tensor):
    return tensor is not None and getattr(tensor, "tensor_type", None) not in (None, *PLAIN)


def dequantized(tensor, dtype):
    if not is_quantized(tensor):
        return torch.Tensor(tensor).to(dtype)
    values = gguf.quants.dequantize(torch.Tensor(tensor.data).to(torch.uint8).cpu().numpy(), tensor.tensor_type)
    return torch.from_numpy(values).reshape(tensor.tensor_shape).to(tensor.device, dtype)


class GGMLOps(comfy.ops.manual_cast):
    class Linear(comfy.ops.manual_cast.Linear):
        comfy_cast_weights = True

        def __init__(self, in_features, out_features, bias=True, device=None, dtype=None):
            torch.nn.Module.__init__(self)
            self.in_features, self.out_features, self.weight, self.bias = in_features, out_features, None, None

        def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors):
            self.weight = torch.nn.Parameter(state_dict[f"{prefix}weight"], requires_grad=False)
            if f"{prefix}bias" in state_dict:
                self.bias = torch.nn.Parameter(state_dict[f"{prefix}bias"], requires_grad=False)

        def forward_comfy_cast_weights(self, input):
            weight = self.weight.to(input.device)
            patches = [patch for patches, _ in weight.patches for patch in patches]
            key = weight.patches[0][1] if weight.patches else ""
            plain = dequantized(weight, input.dtype)
            if patches:
                plain = comfy.lora.calculate_weight(_moved(patches, input.device), plain, key)
            bias = None if self.bias is None else dequantized(self.bias.to(input.device), input.dtype)
            return torch.nn.functional.linear(input, plain, bias)


def _moved(value, device):
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(part, device) for part in value)
    if hasattr(value, "weights"):
        moved = value.__class__.__new__(value.__class__)
        moved.__dict__.update(value.__dict__)
        moved.weights = _moved(value.weights, device)
        return moved
    return value


class GGUFModelPatcher(comfy.model_patcher.ModelPatcher):
    patch_on_device = False
    mmap_released = False

    def patch_weight_to_device(self, key, device_to=None, inplace_update=False):
        weight = comfy.utils.get_attr(self.model, key)
        if key not in self.patches or not is_quantized(weight):
            return super().patch_weight_to_device(key, device_to, inplace_update)
        patched = weight.to(device_to)
        patched.patches = [(_moved(self.patches[key], self.offload_device), key)]
        comfy.utils.set_attr_param(self.model, key, patched)

    def unpatch_model(self, device_to=None, unpatch_weights=True):
        for parameter in self.model.parameters() if unpatch_weights else ():
            if is_quantized(parameter):
                parameter.patches = []
        return super().unpatch_model(device_to=device_to, unpatch_weights=unpatch_weights)

    def load(self, *args, force_patch_weights=False, **kwargs):
        super().load(*args, force_patch_weights=True, **kwargs)
        self.mmap_released = True

    def clone(self, *args, **kwargs):
        own = self.__class__
        self.__class__ = GGUFModelPatcher
        cloned = super().clone(*args, **kwargs)
        cloned.__class__ = GGUFModelPatcher
        self.__class__ = own
        cloned.size = 0
        return cloned


class UnetLoaderGGUF:
    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"unet_name": (folder_paths.get_filename_list("unet_gguf"),)}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "load_unet"
    CATEGORY = "bootleg"

    def load_unet(self, unet_name, dequant_dtype=None, patch_dtype=None, patch_on_device=None):
        reader = gguf.GGUFReader(folder_paths.get_full_path("unet_gguf", unet_name))
        weights = {}
        for tensor in reader.tensors:
            shape = torch.Size(int(size) for size in reversed(tensor.shape))
            data = torch.from_numpy(tensor.data.copy())
            data = data.view(*shape) if tensor.tensor_type in PLAIN else data
            weights[tensor.name] = GGMLTensor(data, tensor.tensor_type, shape)
        model = comfy.sd.load_diffusion_model_state_dict(weights, model_options={"custom_operations": GGMLOps})
        model = GGUFModelPatcher.clone(model)
        model.patch_on_device = bool(patch_on_device)
        return (model,)


class UnetLoaderGGUFAdvanced(UnetLoaderGGUF):
    @classmethod
    def INPUT_TYPES(cls):
        types = (["default", "target", "float32", "float16", "bfloat16"], {"default": "default"})
        required = {
            **UnetLoaderGGUF.INPUT_TYPES()["required"],
            "dequant_dtype": types,
            "patch_dtype": types,
            "patch_on_device": ("BOOLEAN", {"default": False}),
        }
        return {"required": required}


class CLIPLoaderGGUF:
    NAMES = ("clip_name",)
    RETURN_TYPES = ("CLIP",)
    FUNCTION = "load_clip"
    CATEGORY = "bootleg"

    @classmethod
    def INPUT_TYPES(cls):
        files = (folder_paths.get_filename_list("text_encoders"),)
        kind = {"type": (["stable_diffusion", "flux"],)} if len(cls.NAMES) < 3 else {}
        return {"required": {**dict.fromkeys(cls.NAMES, files), **kind}}

    def load_clip(self, type="stable_diffusion", **names):
        raise NotImplementedError("the stand-in has no text encoders")


class DualCLIPLoaderGGUF(CLIPLoaderGGUF):
    NAMES = ("clip_name1", "clip_name2")


class TripleCLIPLoaderGGUF(CLIPLoaderGGUF):
    NAMES = ("clip_name1", "clip_name2", "clip_name3")


class QuadrupleCLIPLoaderGGUF(CLIPLoaderGGUF):
    NAMES = ("clip_name1", "clip_name2", "clip_name3", "clip_name4")


NODE_CLASS_MAPPINGS = {
    loader.__name__: loader
    for loader in (
        UnetLoaderGGUF,
        UnetLoaderGGUFAdvanced,
        CLIPLoaderGGUF,
        DualCLIPLoaderGGUF,
        TripleCLIPLoaderGGUF,
        QuadrupleCLIPLoaderGGUF,
    )
}
