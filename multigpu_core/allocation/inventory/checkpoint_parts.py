"""Which model of a checkpoint file a tensor belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from multigpu.multigpu_core.allocation.formats.stored_tensor import StoredTensor


class CheckpointPart(str, Enum):
    """One of the models that a checkpoint packs into a single file."""

    DIFFUSION_MODEL = "diffusion_model"
    TEXT_ENCODER = "text_encoder"
    VAE = "vae"
    CONTROLNET = "controlnet"
    EVERYTHING = "everything"
    """The whole file, whatever is in it."""


class CheckpointPartError(ValueError):
    """A file lacks the part that was asked for; `path`, `part` and `available` say which and what there is."""

    def __init__(self, path: Path, part: CheckpointPart, available: tuple[CheckpointPart, ...]) -> None:
        found = ", ".join(one.value for one in available) or "one model without parts"
        super().__init__(f"{path} has no part {part.value!r}; it contains {found}. Choose one of these, or no part.")
        self.path = path
        self.part = part
        self.available = available


_PREFIXES = {
    CheckpointPart.DIFFUSION_MODEL: ("model.diffusion_model.", "diffusion_model.", "model.model."),
    CheckpointPart.TEXT_ENCODER: ("cond_stage_model.", "conditioner.", "text_encoders.", "text_encoder."),
    CheckpointPart.VAE: ("first_stage_model.", "vae.", "audio_vae.", "vocoder.", "pretransform."),
    CheckpointPart.CONTROLNET: ("control_model.",),
}


def select_part(path: Path, tensors: Sequence[StoredTensor], part: CheckpointPart | None) -> list[StoredTensor]:
    """The tensors of one part of a file; by default its diffusion model, or all of a file that is a single model.

    Raises CheckpointPartError for a part that the file does not have.
    """
    parts = _tensors_by_part(tensors)
    if part is None and CheckpointPart.DIFFUSION_MODEL in parts:
        part = CheckpointPart.DIFFUSION_MODEL
    if part is None or part is CheckpointPart.EVERYTHING:
        return list(tensors)
    if part not in parts:
        raise CheckpointPartError(path, part, tuple(one for one in CheckpointPart if one in parts))
    return parts[part]


def _tensors_by_part(tensors: Sequence[StoredTensor]) -> dict[CheckpointPart, list[StoredTensor]]:
    parts: dict[CheckpointPart, list[StoredTensor]] = {}
    unmarked: list[StoredTensor] = []
    for tensor in tensors:
        part = _part_of(tensor.name)
        (unmarked if part is None else parts.setdefault(part, [])).append(tensor)
    if parts and unmarked and CheckpointPart.DIFFUSION_MODEL not in parts:
        # Some checkpoints mark what they add to the diffusion model and leave its own names bare.
        parts[CheckpointPart.DIFFUSION_MODEL] = unmarked
    return parts


def _part_of(name: str) -> CheckpointPart | None:
    return next((part for part, prefixes in _PREFIXES.items() if name.startswith(prefixes)), None)
