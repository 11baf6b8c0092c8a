"""Inventories of model files, read from their headers alone."""

from __future__ import annotations

import json
import re
import resource
import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from multigpu.multigpu_core.allocation.formats import built_in
from multigpu.multigpu_core.allocation.formats.built_in import BUILT_IN_FORMATS
from multigpu.multigpu_core.allocation.formats.header_error import HeaderError
from multigpu.multigpu_core.allocation.inventory.checkpoint_parts import CheckpointPart, CheckpointPartError
from multigpu.multigpu_core.allocation.inventory.of_file import inventory_of_file
from multigpu.multigpu_core.allocation.inventory.of_module import inventory_of_module

MB, GIB = 1 << 20, 1 << 30


def safetensors_file(path: Path, header: object, data_bytes: int = 0) -> Path:
    """A sparse file: its header is real and its data take no room on the disk."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + data_bytes)
    return path


def one_tensor(dtype: object = "F32", shape: object = (4,), offsets: object = (0, 16)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def gguf_string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def gguf_tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return gguf_string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def gguf_file(path: Path, *tensors: bytes, fields: tuple[bytes, ...] = (), data_bytes: int = 0) -> Path:
    with path.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(fields)) + b"".join(fields + tensors))
        file.truncate(-(-file.tell() // 32) * 32 + data_bytes)
    return path


def test_each_file_of_the_folder_is_a_format_without_another_list() -> None:
    (folder,) = built_in.__path__
    assert [each.name for each in BUILT_IN_FORMATS] == sorted(
        file.stem for file in Path(folder).glob("*.py") if file.stem != "__init__"
    )


def test_a_file_is_of_one_format_whatever_the_number_of_its_tensors(tmp_path: Path) -> None:
    tensors = [gguf_tensor(f"blocks.{i}.weight", (1,), 0, 32 * i) for i in range(ord("{"))]
    files = (
        gguf_file(tmp_path / "a.gguf", *tensors),
        safetensors_file(tmp_path / "a.safetensors", {"a": one_tensor()}),
    )
    found = [[each.name for each in BUILT_IN_FORMATS if each.recognises(file.read_bytes()[:64])] for file in files]
    assert found == [["gguf"], ["safetensors"]]


def test_a_safetensors_file_has_the_blocks_of_its_live_model(tmp_path: Path) -> None:
    model = torch.nn.ModuleDict(
        {
            "img_in": torch.nn.Linear(4, 4),
            "double_blocks": torch.nn.ModuleList(
                [torch.nn.ModuleDict({"img_mlp": torch.nn.Linear(4, 4)}) for _ in range(12)]
            ),
            "single_blocks": torch.nn.ModuleList(
                [torch.nn.ModuleDict({"linear1": torch.nn.Linear(4, 4)}) for _ in range(3)]
            ),
        }
    )
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, tmp_path / "model.safetensors")
    live, stored = inventory_of_module(model), inventory_of_file(tmp_path / "model.safetensors")
    assert [block.name for block in stored.blocks] == [block.name for block in live.blocks]
    assert [block.size_bytes for block in stored.blocks] == [block.size_bytes for block in live.blocks]
    assert {block.dtype for block in stored.blocks} == {"float32"}


def test_a_gguf_file_counts_quantised_bytes_and_names_ggml_types(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    writer = gguf.GGUFWriter(path, "flux")
    writer.add_array("tokenizer.ggml.tokens", ["a", "", "longer token"])
    writer.add_array("scores", [0.5, 1.5])
    writer.add_uint32("count", 3)
    rows = np.ones((2, 256), dtype=np.float32)
    for name in ("double_blocks.10.img_attn.qkv.weight", "double_blocks.9.img_attn.qkv.weight"):
        quantised = gguf.quants.quantize(rows, gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor(name, quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("img_in.weight", np.ones((3, 5), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert [(b.name, b.dtype, b.size_bytes) for b in inventory_of_file(path).blocks] == [
        ("img_in", "F32", 60),
        ("double_blocks.9", "Q8_0", 2 * 256 // 32 * 34),
        ("double_blocks.10", "Q8_0", 2 * 256 // 32 * 34),
    ]


def bytes_read() -> int:
    """What this process has read from files so far; 0 where the system does not tell."""
    counters = Path("/proc/self/io")
    return int(re.findall(r"rchar: (\d+)", counters.read_text())[0]) if counters.exists() else 0


@pytest.mark.parametrize("extension", ["safetensors", "gguf"])
def test_a_40_gigabyte_file_is_read_without_its_weights(tmp_path: Path, extension: str) -> None:
    blocks, size = 2000, 40 * GIB // 2000
    names = [f"blocks.{n}.attn.weight" for n in range(blocks)]
    path = tmp_path / f"model.{extension}"
    if extension == "gguf":
        tensors = [gguf_tensor(name, (size,), 24, n * size) for n, name in enumerate(names)]
        vocabulary = struct.pack("<IIQ", 9, 8, 250_000) + b"".join(gguf_string(f"word{n}") for n in range(250_000))
        field = gguf_string("tokenizer.ggml.tokens") + vocabulary
        gguf_file(path, *tensors, fields=(field,), data_bytes=blocks * size)
    else:
        entries = {name: one_tensor("I8", [size], [n * size, (n + 1) * size]) for n, name in enumerate(names)}
        safetensors_file(path, entries, blocks * size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read = bytes_read()
    inventory = inventory_of_file(path)
    assert bytes_read() - read < 2 * (path.stat().st_size - blocks * size) + MB, "the header, and no weights"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
    assert (len(inventory.blocks), inventory.total_bytes) == (blocks, blocks * size)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    names = [
        "model.diffusion_model.input_blocks.1.0.in_layers.0.weight",
        "conditioner.embedders.0.transformer.text_model.encoder.layers.0.mlp.fc1.weight",
        "first_stage_model.decoder.up.0.block.0.conv1.weight",
        "model_ema.decay",
    ]
    save_file({name: torch.zeros(n + 1) for n, name in enumerate(names)}, tmp_path / "checkpoint.safetensors")
    return tmp_path / "checkpoint.safetensors"


@pytest.mark.parametrize(
    ("part", "size"),
    [
        (None, 4),
        (CheckpointPart.DIFFUSION_MODEL, 4),
        (CheckpointPart.TEXT_ENCODER, 8),
        (CheckpointPart.VAE, 12),
        (CheckpointPart.EVERYTHING, 4 + 8 + 12 + 16),
    ],
)
def test_a_checkpoint_gives_the_model_that_is_asked_for(checkpoint: Path, part: CheckpointPart, size: int) -> None:
    assert inventory_of_file(checkpoint, part=part).total_bytes == size


def test_a_part_that_a_file_lacks_is_refused_with_the_parts_that_it_has(checkpoint: Path) -> None:
    with pytest.raises(CheckpointPartError, match="contains diffusion_model, text_encoder, vae"):
        inventory_of_file(checkpoint, part=CheckpointPart.CONTROLNET)


def test_a_text_encoder_whose_names_start_with_model_is_read_whole(tmp_path: Path) -> None:
    names = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"]
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "encoder.safetensors")
    kinds = [(b.name, b.kind.value) for b in inventory_of_file(tmp_path / "encoder.safetensors").blocks]
    assert kinds == [("model.embed_tokens", "head"), ("model.layers.0", "transformer")]


def test_bare_names_beside_marked_ones_are_the_diffusion_model(tmp_path: Path) -> None:
    names = ["model.double_layers.0.attn.w1q.weight", "vae.decoder.conv_in.weight"]
    save_file({name: torch.zeros(1) for name in names}, tmp_path / "aura.safetensors")
    (block,) = inventory_of_file(tmp_path / "aura.safetensors").blocks
    assert block.name == "model.double_layers.0"


@pytest.mark.parametrize(
    ("header", "data_bytes", "field"),
    [
        (b"not json", 0, "header"),
        (b"[]", 0, "header"),
        (b"[" * 100_000, 0, "header"),
        (b"\xff\xfe", 0, "header"),
        (b'{"a": 1' + b"0" * 10_000 + b"}", 0, "header"),
        (b'{"a": {}, "a": {}}', 0, "header"),
        ({"a": 3}, 16, "tensor 'a'"),
        ({"a": one_tensor(dtype=7)}, 16, "tensor 'a'"),
        ({"a": one_tensor(dtype="F16")}, 16, "tensor 'a'"),
        ({"a": one_tensor(shape=[-4])}, 16, "tensor 'a'"),
        ({"a": one_tensor(shape=[True])}, 16, "tensor 'a'"),
        ({"a": one_tensor(shape=[10**30])}, 16, "tensor 'a'"),
        ({"a": one_tensor(shape=[10**9] * 1_000_000)}, 16, "tensor 'a'"),
        ({"a\n\x1b[31m": one_tensor()}, 16, "tensor 'a\\n\\x1b[31m'"),
        ({"a": one_tensor(offsets=[16, 0])}, 16, "tensor 'a'"),
        ({"a": one_tensor(offsets=[0])}, 16, "tensor 'a'"),
        ({"a": one_tensor()}, 15, "tensor 'a'"),
        ({"a": one_tensor(), "b": one_tensor(offsets=[8, 24])}, 24, "tensor 'b'"),
    ],
)
def test_a_damaged_safetensors_header_is_refused_by_file_and_field(
    tmp_path: Path, header: object, data_bytes: int, field: str
) -> None:
    path = safetensors_file(tmp_path / "bad.safetensors", header, data_bytes)
    with pytest.raises(HeaderError) as refused:
        inventory_of_file(path)
    assert (refused.value.path, refused.value.field) == (path, field)
    assert "bad.safetensors" in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"abc", struct.pack("<Q", 1 << 60) + b"{}", struct.pack("<Q", 3) + b"{}"])
def test_a_header_length_beyond_the_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.safetensors").write_bytes(content)
    with pytest.raises(HeaderError) as refused:
        inventory_of_file(tmp_path / "bad.safetensors")
    assert refused.value.field == "header length"


@pytest.mark.parametrize("content", [b"<!DOCTYPE html><html>", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_file_that_is_no_model_is_told_from_one_that_is_cut_short(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "page.safetensors").write_bytes(content)
    with pytest.raises(HeaderError, match="this is no"):
        inventory_of_file(tmp_path / "page.safetensors")


def test_a_file_of_pytorch_is_no_damaged_one(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(4)}, tmp_path / "model.ckpt")
    with pytest.raises(HeaderError, match="a PyTorch checkpoint") as refused:
        inventory_of_file(tmp_path / "model.ckpt")
    assert "damaged" not in str(refused.value)


def test_a_header_that_claims_gigabytes_of_a_large_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 4 * GIB))
        file.truncate(5 * GIB)
    read = bytes_read()
    with pytest.raises(HeaderError, match="more than any model needs"):
        inventory_of_file(path)
    assert bytes_read() - read < MB


GGUF_TENSOR = gguf_tensor("a", (32,), 0, 0)


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (b"GGUF", "version"),
        (b"GGUF" + struct.pack("<I", 1), "version"),
        (b"GGUF" + struct.pack(">I", 3), "version"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "tensor count"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "metadata count"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1), "metadata field 0"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60), "metadata field 0"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + gguf_string("k") + struct.pack("<I", 77), "metadata 'k'"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + gguf_string("k") + struct.pack("<IQ", 8, 1 << 60), "metadata 'k'"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + gguf_string("k") + struct.pack("<IIQ", 9, 8, 1 << 60),
            "metadata 'k'",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + gguf_string("k") + struct.pack("<IIQ", 9, 6, 1 << 60),
            "metadata 'k'",
        ),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + gguf_string("k") + struct.pack("<IIQQ", 9, 8, 1, 9), "metadata 'k'"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + gguf_string("k") + struct.pack("<IIQ", 9, 9, 1) * 9, "metadata 'k'"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + gguf_string("k\x07"), "metadata field 0"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0), "tensor at byte 24"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + gguf_string("a\x07") + bytes(64), "tensor at byte 24"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + gguf_tensor("a", (32,), 99, 0), "tensor 'a'"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + gguf_tensor("a", (33,), 12, 0), "tensor 'a'"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + gguf_tensor("a", (), 30, 0) + bytes(64), "tensor 'a'"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + gguf_tensor("a", (0, 2**62), 1, 0) + bytes(64), "tensor 'a'"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + gguf_string("a") + struct.pack("<I", 1 << 31), "tensor 'a'"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + gguf_tensor("a", (32,) * 4, 0, 0), "tensor 'a'"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2, 0) + GGUF_TENSOR * 2 + bytes(4096), "tensor 'a'"),
    ],
)
def test_a_damaged_gguf_header_is_refused_by_file_and_field(tmp_path: Path, content: bytes, field: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(HeaderError) as refused:
        inventory_of_file(path)
    assert (refused.value.path, refused.value.field) == (path, field)


@pytest.mark.parametrize(
    "array",
    [
        struct.pack("<IIQ", 9, 8, 8_000_000) + bytes(8 * 8_000_000),
        struct.pack("<IIQ", 9, 9, 4_000_000) + struct.pack("<IQ", 4, 0) * 4_000_000,
    ],
    ids=["strings", "arrays"],
)
def test_millions_of_empty_items_are_refused_before_they_are_gone_through(
    tmp_path: Path, array: bytes, steps_of: Callable[[Callable[[], object]], int]
) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + gguf_string("k") + array)

    def refused() -> None:
        with pytest.raises(HeaderError, match="more than any model has"):
            inventory_of_file(path)

    assert steps_of(refused) < 10_000


def test_a_gguf_file_cut_short_anywhere_in_its_header_or_data_is_refused(tmp_path: Path) -> None:
    field = gguf_string("words") + struct.pack("<IIQ", 9, 8, 2) + gguf_string("a") + gguf_string("bc")
    whole = gguf_file(tmp_path / "whole.gguf", GGUF_TENSOR, fields=(field,), data_bytes=128).read_bytes()
    assert inventory_of_file(tmp_path / "whole.gguf").total_bytes == 128
    for length in range(len(whole)):
        (tmp_path / "cut.gguf").write_bytes(whole[:length])
        with pytest.raises(HeaderError):
            inventory_of_file(tmp_path / "cut.gguf")


def test_the_alignment_that_a_gguf_file_states_moves_its_data(tmp_path: Path) -> None:
    field = gguf_string("general.alignment") + struct.pack("<II", 4, 4096)
    path = gguf_file(tmp_path / "aligned.gguf", GGUF_TENSOR, fields=(field,), data_bytes=128)
    with pytest.raises(HeaderError, match="truncated"):
        inventory_of_file(path)
    with path.open("r+b") as file:
        file.truncate(4096 + 128)
    assert inventory_of_file(path).total_bytes == 128
