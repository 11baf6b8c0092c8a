"""The demo's verdict: it must not be given lightly."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from multigpu.multigpu_core.cli.demo.machine import DemoMachine, choose_machine
from multigpu.multigpu_core.cli.demo.report import DemoError, DemoResult, compare_images, print_report
from multigpu.multigpu_core.devices import DeviceRegistry, default_backends

MODEL = {
    "name": "Flux",
    "compute_device": "cuda:0",
    "strategy": "interleave",
    "expert_string": "cuda:0,1048576b;cpu,3145728b",
    "bytes_by_device": {"cuda:0": 1048576, "cpu": 3145728},
    "step_transfer_bytes": 3145728,
    "blocks": [{"device": "cuda:0"}, {"device": "cpu"}, {"device": "cpu"}],
}


def _image(path: Path, odd_pixels: int = 0) -> Path:
    image = Image.linear_gradient("L").convert("RGB")
    for x in range(odd_pixels):
        red, green, blue = image.getpixel((x, 7))  # type: ignore[misc]
        image.putpixel((x, 7), (red, green, blue + 1))
    image.save(path)
    return path


@pytest.mark.parametrize("odd_pixels", [0, 1, 3])
def test_each_pixel_that_is_off_by_the_smallest_step_is_counted(tmp_path: Path, odd_pixels: int) -> None:
    assert compare_images(_image(tmp_path / "a.png"), _image(tmp_path / "b.png", odd_pixels)) == odd_pixels


def test_images_of_one_colour_prove_nothing(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8), "black").save(tmp_path / name)
    with pytest.raises(DemoError, match="only one colour"):
        compare_images(tmp_path / "a.png", tmp_path / "b.png")


def test_images_of_two_sizes_are_not_compared(tmp_path: Path) -> None:
    _image(tmp_path / "a.png")
    Image.linear_gradient("L").convert("RGB").resize((128, 128)).save(tmp_path / "b.png")
    with pytest.raises(DemoError, match=r"256.*128"):
        compare_images(tmp_path / "a.png", tmp_path / "b.png")


def _told(differing_pixels: int) -> str:
    console = Console(record=True, width=100)
    print_report(DemoResult(MODEL, Path("whole.png"), Path("split.png"), differing_pixels), console)
    return console.export_text()


def test_the_report_gives_table_traffic_image_and_verdict() -> None:
    told = _told(0)
    assert "75.0%" in told
    assert "3,145,728 bytes" in told
    assert "split.png" in told
    assert "Identical" in told


def test_a_single_pixel_that_differs_is_told_and_nothing_is_called_identical() -> None:
    told = _told(1)
    assert "1 pixels differ from whole.png" in told
    assert "Identical" not in told


def test_without_accelerators_the_demo_simulates_them() -> None:
    only_cpu = DeviceRegistry([backend for backend in default_backends() if backend.type == "cpu"])
    machine = choose_machine(only_cpu)
    assert machine.simulated
    assert machine.environment["MULTIGPU_SIMULATE"]
    assert len(machine.accelerators) == 2


@pytest.mark.parametrize("accelerators", [("cuda:0",), ("cuda:0", "cuda:1"), ("xpu:0", "xpu:1", "xpu:2")])
def test_the_split_is_over_all_devices_of_the_machine(accelerators: tuple[str, ...]) -> None:
    allocation = DemoMachine(accelerators, simulated=False).allocation
    assert [part.split(",")[0] for part in allocation.split(";")] == [*accelerators, "cpu"]
