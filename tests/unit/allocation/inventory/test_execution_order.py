"""Blocks are sorted as they run, whatever the order of their names in a file or of their registration."""

from __future__ import annotations

import pytest

from multigpu.multigpu_core.allocation.inventory.execution_order import in_execution_order

ORDERS = {
    "what prepares the prompt comes first": ["llm_adapter.blocks.0", "blocks.0", "blocks.1"],
    "lyrics": ["lyric_encoder.encoders.0", "transformer_blocks.0", "transformer_blocks.1"],
    "the fusion of prompts": ["txtfusion.layerwise_blocks.0", "txtfusion.refiner_blocks.0", "blocks.0"],
    "a decoder last": ["encoder.layers.0", "tokenizer.layers.0", "decoder.layers.0"],
    "refiners before layers": ["context_refiner.0", "noise_refiner.0", "layers.0", "layers.1"],
    "both streams before one": ["noise_refiner.0", "double_stream_layers.0", "single_stream_layers.0"],
    "control blocks along the others": [
        "blocks.0", "vace_blocks.0", "blocks.1", "blocks.2", "vace_blocks.1", "blocks.3",
    ],
    "injectors along the blocks": [
        "blocks.0", "audio_injector.injector_adain_layers.0", "audio_injector.injector.0", "blocks.1",
    ],
    "the faces of Wan Animate": ["blocks.0", "face_adapter.fuser_blocks.0", *(f"blocks.{i}" for i in range(1, 5))],
    "temporal layers after the spatial ones": [
        "i.1.proj_in", "i.1.time_pos_embed.0", "i.1.transformer_blocks.0", "i.1.time_stack.0",
        "i.1.transformer_blocks.1", "i.1.time_stack.1", "i.1.proj_out",
    ],
    "positions before their blocks": ["repo_layers.0", "blocks.0", "repo_layers.1", "blocks.1"],
    "what makes pixels after the rest": ["double_blocks.0", "single_blocks.0", "nerf_blocks.0"],
    "numbers count": [f"layers.{i}" for i in range(12)],
}  # fmt: skip


@pytest.mark.parametrize("expected", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("given", [sorted, lambda names: sorted(names, reverse=True)], ids=["sorted", "reversed"])
def test_known_parts_run_in_the_order_of_their_model(expected: list[str], given: object) -> None:
    assert callable(given)
    assert in_execution_order(given(expected)) == expected


def test_unknown_siblings_stay_as_they_are() -> None:
    assert in_execution_order(["second.0", "first.0"]) == ["second.0", "first.0"]


def test_a_list_that_nothing_runs_beside_stays_where_it_is() -> None:
    assert in_execution_order(["vace_blocks.1", "vace_blocks.0", "other.0"]) == [
        "vace_blocks.0",
        "vace_blocks.1",
        "other.0",
    ]
