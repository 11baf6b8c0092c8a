"""Blocks of live modules: what becomes a block, what stays a head, and what is counted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from multigpu.multigpu_core.allocation.inventory.inventory import Block, BlockKind
from multigpu.multigpu_core.allocation.inventory.of_module import inventory_of_module


def tree(*names: str) -> nn.Module:
    """A module with a parameter of 4 float32 numbers under each dotted name."""
    root = nn.Module()
    for name in names:
        *path, leaf = name.split(".")
        owner = root
        for part in path:
            if part not in dict(owner.named_children()):
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        owner.register_parameter(leaf, nn.Parameter(torch.zeros(4)))
    return root


def blocks(module: nn.Module) -> list[tuple[str, str]]:
    return [(block.name, block.kind.value) for block in inventory_of_module(module).blocks]


def block_holding(module: nn.Module, name: str) -> Block:
    (holder,) = [block for block in inventory_of_module(module).blocks if name in block.parameters]
    return holder


@pytest.mark.parametrize(
    ("parameter", "block"),
    [
        ("diffusion_model.double_blocks.3.img_mlp.0.weight", "diffusion_model.double_blocks.3"),
        ("diffusion_model.single_blocks.7.modulation.lin.weight", "diffusion_model.single_blocks.7"),
        ("diffusion_model.blocks.11.modulation", "diffusion_model.blocks.11"),
        ("transformer_blocks.5.ff.net.0.proj.weight", "transformer_blocks.5"),
        ("joint_blocks.2.context_block.adaLN_modulation.1.bias", "joint_blocks.2"),
        ("double_stream_blocks.1.block.ff_i.experts.0.w1.weight", "double_stream_blocks.1"),
        ("encoder.block.4.layer.0.SelfAttention.q.weight", "encoder.block.4"),
        (
            "clip_l.transformer.text_model.encoder.layers.9.mlp.fc1.weight",
            "clip_l.transformer.text_model.encoder.layers.9",
        ),
        ("model.layers.31.mlp.gate_proj.weight", "model.layers.31"),
        ("blk.12.attn_q.weight", "blk.12"),
        ("txt_in.individual_token_refiner.blocks.1.mlp.0.weight", "txt_in.individual_token_refiner.blocks.1"),
        ("noise_refiner.0.attention.qkv.weight", "noise_refiner.0"),
        ("blocks.block3.blocks.1.block.attn.to_q.0.weight", "blocks.block3.blocks.1"),
        ("input_blocks.4.0.in_layers.2.weight", "input_blocks.4.0"),
        ("decoder.up.2.block.1.conv1.weight", "decoder.up.2.block.1"),
        ("decoder.mid.block_1.conv1.weight", "decoder.mid.block_1"),
        ("down_blocks.1.resnets.0.conv1.weight", "down_blocks.1.resnets.0"),
        ("decoder.upsamples.3.residual.2.weight", "decoder.upsamples.3"),
    ],
)
def test_a_block_is_the_smallest_repeated_unit_that_is_called_as_a_whole(parameter: str, block: str) -> None:
    holder = block_holding(tree(parameter), parameter)
    assert holder.name == block
    assert holder.kind is not BlockKind.HEAD


@pytest.mark.parametrize(
    "parameter",
    [
        "diffusion_model.img_in.weight",
        "diffusion_model.time_in.in_layer.weight",
        "diffusion_model.final_layer.adaLN_modulation.1.weight",
        "diffusion_model.pos_embed",
        "diffusion_model.time_projection.1.weight",
        "text_model.embeddings.token_embedding.weight",
        "text_model.embeddings.position_embedding.weight",
        "text_model.final_layer_norm.weight",
        "model.embed_tokens.weight",
        "shared.weight",
        "logit_scale",
        "time_embed.0.weight",
        "label_emb.0.0.weight",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        "enc.blk.0.attn_rel_b.weight",
    ],
)
def test_embeddings_positions_and_input_and_output_layers_are_heads(parameter: str) -> None:
    assert block_holding(tree(parameter), parameter).kind is BlockKind.HEAD


def test_a_unet_is_split_inside_its_spatial_transformers() -> None:
    unet = tree(
        "time_embed.0.weight",
        "input_blocks.0.0.weight",
        "input_blocks.4.0.in_layers.0.weight",
        "input_blocks.4.0.out_layers.3.weight",
        "input_blocks.4.1.norm.weight",
        "input_blocks.4.1.proj_in.weight",
        "input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight",
        "input_blocks.4.1.transformer_blocks.0.ff.net.0.proj.weight",
        "input_blocks.4.1.transformer_blocks.1.attn1.to_q.weight",
        "input_blocks.4.1.proj_out.weight",
        "input_blocks.4.1.time_mixer.mix_factor",
        "middle_block.1.transformer_blocks.0.attn1.to_q.weight",
        "out.2.weight",
    )
    assert blocks(unet) == [
        ("time_embed.0", "head"),
        ("input_blocks.0.0", "other"),
        ("input_blocks.4.0", "other"),
        ("input_blocks.4.1.norm", "norm"),
        ("input_blocks.4.1.proj_in", "other"),
        ("input_blocks.4.1.transformer_blocks.0", "transformer"),
        ("input_blocks.4.1.transformer_blocks.1", "transformer"),
        ("input_blocks.4.1.time_mixer.mix_factor", "head"),
        ("input_blocks.4.1.proj_out", "other"),
        ("middle_block.1.transformer_blocks.0", "transformer"),
        ("out.2", "head"),
    ]


def test_t5_leaves_its_relative_positions_to_a_head_and_keeps_the_rest_of_block_0() -> None:
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    query = "encoder.block.0.layer.0.SelfAttention.q.weight"
    encoder = tree(query, bias)
    assert block_holding(encoder, query).parameters == (query,)
    assert block_holding(encoder, bias).parameters == (bias,)


def test_an_image_decoder_runs_its_up_stages_from_the_highest_number_down() -> None:
    decoder = tree(*(f"decoder.up.{stage}.block.{n}.conv1.weight" for stage in range(3) for n in range(2)))
    assert [name for name, _ in blocks(decoder)] == [
        f"decoder.up.{stage}.block.{n}" for stage in (2, 1, 0) for n in range(2)
    ]


def test_ten_and_more_blocks_stay_in_the_order_of_their_numbers() -> None:
    model = tree(*(f"blocks.{n}.attn.weight" for n in range(12)))
    assert [name for name, _ in blocks(model)] == [f"blocks.{n}" for n in range(12)]


def test_a_block_keeps_the_tensors_that_it_owns_itself() -> None:
    model = tree("blocks.0.weight", "blocks.0.attn.weight")
    assert blocks(model) == [("blocks.0", "transformer")]


def test_a_shared_tensor_does_not_take_the_rest_of_its_layer_along() -> None:
    model = tree("controlnet_blocks.0.weight", "controlnet_blocks.0.bias", "controlnet_blocks.1.weight")
    model.get_submodule("controlnet_blocks.1").weight = model.get_parameter("controlnet_blocks.0.weight")
    assert sorted(blocks(model)) == [("controlnet_blocks.0", "other"), ("controlnet_blocks.0.weight", "head")]


def test_a_tensor_with_two_names_counts_once_in_the_block_of_the_first() -> None:
    model = tree("blocks.0.attn.weight", "blocks.0.mlp.weight")
    model.get_submodule("blocks.0.mlp").weight = model.get_parameter("blocks.0.attn.weight")
    (block,) = inventory_of_module(model).blocks
    assert block.size_bytes == 16
    assert block.parameters == ("blocks.0.attn.weight", "blocks.0.mlp.weight")


def test_a_tensor_that_two_blocks_share_stays_a_head() -> None:
    model = tree("blocks.0.attn.weight", "blocks.0.mlp.weight", "blocks.1.attn.weight")
    model.get_submodule("blocks.1.attn").weight = model.get_parameter("blocks.0.attn.weight")
    shared = block_holding(model, "blocks.1.attn.weight")
    assert shared.kind is BlockKind.HEAD
    assert shared.parameters == ("blocks.0.attn.weight", "blocks.1.attn.weight")
    assert inventory_of_module(model).total_bytes == 32


def test_a_module_under_two_names_stays_one_movable_block() -> None:
    model = tree("blocks.0.attn.weight")
    model.again = model.get_submodule("blocks")
    (block,) = inventory_of_module(model).blocks
    assert (block.kind, block.size_bytes) == (BlockKind.TRANSFORMER, 16)
    assert block.parameters == ("blocks.0.attn.weight", "again.0.attn.weight")


def test_buffers_count_when_a_state_dict_has_them() -> None:
    model = tree("blocks.0.attn.weight")
    attention = model.get_submodule("blocks.0.attn")
    attention.register_buffer("scale", torch.zeros(2))
    attention.register_buffer("rope", torch.zeros(1000), persistent=False)
    (block,) = inventory_of_module(model).blocks
    assert block.parameters == tuple(model.state_dict())
    assert block.size_bytes == 16 + 8


def test_a_block_is_named_by_the_type_of_most_of_its_bytes() -> None:
    model = tree("blocks.0.norm.weight", "blocks.0.attn.weight")
    model.get_submodule("blocks.0.attn").weight = nn.Parameter(torch.zeros(100, dtype=torch.bfloat16))
    assert inventory_of_module(model).blocks[0].dtype == "bfloat16"


def test_meta_weights_count_by_their_shape() -> None:
    with torch.device("meta"):
        model = nn.ModuleDict({"blocks": nn.ModuleList([nn.Sequential(nn.Linear(1 << 15, 1 << 15, bias=False))])})
    assert inventory_of_module(model).total_bytes == 4 << 30


def test_four_times_the_blocks_take_about_four_times_the_work(
    steps_of: Callable[[Callable[[], object]], int],
) -> None:
    steps = []
    for count in (250, 1000):
        with torch.device("meta"):
            blocks = [nn.ModuleDict({"attn": nn.Linear(8, 8)}) for _ in range(count)]
        model = nn.ModuleDict({"blocks": nn.ModuleList(blocks)})
        assert len(inventory_of_module(model).blocks) == count
        steps.append(steps_of(partial(inventory_of_module, model)))
    assert steps[1] < 6 * steps[0]


_PARTS = st.sampled_from(
    [
        "diffusion_model",
        "blocks",
        "layers",
        "block",
        "layer",
        "up",
        "decoder",
        "norm",
        "attn",
        "mid",
        "block_1",
        "0",
        "1",
        "12",
    ]
)
_NAMES = st.lists(_PARTS, min_size=1, max_size=6).map(lambda parts: ".".join(["m", *parts, "weight"]))


@given(st.lists(_NAMES, min_size=1, max_size=25, unique=True))
def test_every_parameter_is_in_exactly_one_block_and_sizes_sum_exactly(names: list[str]) -> None:
    model = tree(*names)
    inventory = inventory_of_module(model)
    listed = [name for block in inventory.blocks for name in block.parameters]
    assert sorted(listed) == sorted(names)
    assert inventory.total_bytes == 16 * len(names)
    assert len({block.name for block in inventory.blocks}) == len(inventory.blocks)
    assert inventory_of_module(model) == inventory
