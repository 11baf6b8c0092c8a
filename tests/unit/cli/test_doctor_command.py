"""`multigpu doctor`: what is wrong is found, with what to do; what is right is not complained of."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar, cast

import pytest
from typer.testing import CliRunner

from multigpu.multigpu_core.cli.app import app
from multigpu.multigpu_core.cli.doctor import tested_versions as tested
from multigpu.multigpu_core.cli.doctor.checks import findings
from multigpu.multigpu_core.cli.doctor.collect import snapshot
from multigpu.multigpu_core.cli.doctor.finding import Finding, Severity
from multigpu.multigpu_core.cli.doctor.nvidia_smi import NvidiaCard, cards_in
from multigpu.multigpu_core.cli.doctor.running_server import RunningServer
from multigpu.multigpu_core.cli.doctor.snapshot import ClusterHere, InsideComfyUI, PackHere, Snapshot
from multigpu.multigpu_core.cluster.ray_process import INSTALL
from multigpu.multigpu_core.devices import DeviceInfo

ROOT = Path(__file__).parents[3]


def _card(index: int, can_pin: bool = True) -> DeviceInfo:
    return DeviceInfo(f"cuda:{index}", "cuda", index, "card", 24 << 30, 20 << 30, can_pin, True)


NVIDIA = NvidiaCard("card", 4, 4, 16, 16, memory_bytes=24 << 30, window_bytes=32 << 30)
INSIDE = InsideComfyUI("3.11.7", "2.11.0", comfy_aimdo=tested.COMFY_AIMDO[0], nodes=100)
HEALTHY = Snapshot(
    comfyui=Path("ComfyUI"),
    comfyui_version=tested.COMFYUI[0],
    inside=INSIDE,
    comfy_aimdo_wanted=tested.COMFY_AIMDO[0],
    server=RunningServer("http://127.0.0.1:8188", plugins=[{"name": "comfy_core", "enabled": True, "why_not": ""}]),
    packs=(PackHere("ComfyUI-GGUF", "2.0.0"), PackHere("ComfyUI-LTXVideo", "9.9", "aceeae9" + 33 * "0")),
    largest_model=("flux.safetensors", 24 << 30),
    devices=(_card(0), _card(1)),
    free_bytes=30 << 30,
    swap_bytes=32 << 30,
    free_swap_bytes=32 << 30,
    nvidia_cards=(NVIDIA,),
    cluster=ClusterHere("node2", ray_version=tested.RAY, token_file="the token", shared_bytes=8 << 30),
)


def _inside(**changes: Any) -> dict[str, Any]:
    return {"inside": replace(INSIDE, **changes)}


def _server(**changes: Any) -> dict[str, Any]:
    return {"server": replace(cast(RunningServer, HEALTHY.server), **changes)}


def _cluster(**changes: Any) -> dict[str, Any]:
    return {"cluster": replace(cast(ClusterHere, HEALTHY.cluster), **changes)}


def _nvidia(**changes: Any) -> dict[str, Any]:
    return {"nvidia_cards": (replace(NVIDIA, **changes),)}


def test_a_healthy_machine_is_not_complained_of() -> None:
    assert findings(HEALTHY) == []


@pytest.mark.parametrize(
    ("change", "severity", "told"),
    [
        ({"python": (3, 9)}, "problem", "Python 3.9 is too old"),
        ({"torch": (2, 3)}, "problem", "torch 2.3 is too old"),
        ({"rivals": ("MultiGPU of old",)}, "problem", "custom_nodes/MultiGPU of old"),
        ({"comfyui": None}, "note", "in no ComfyUI"),
        ({"comfyui_version": ""}, "problem", "does not look like a ComfyUI"),
        ({"comfyui_version": "0.99.0"}, "note", "0.99.0 has not been tested"),
        ({"settings_problems": ("plugins.toml, line 3: no such key",)}, "warning", "line 3"),
        ({"device_problems": ("cuda:1: broken",)}, "warning", "cuda:1: broken"),
        ({"devices": ()}, "note", "no accelerator"),
        ({"devices": (_card(0),)}, "note", "one accelerator, cuda:0"),
        ({"devices": (_card(0), _card(1, can_pin=False))}, "note", "pinned for cuda:1"),
        ({"environ": {"CUDA_VISIBLE_DEVICES": "1"}}, "note", "CUDA_VISIBLE_DEVICES is '1'"),
        ({"system": "Windows", "devices": ()}, "note", "no accelerator"),
        ({"is_wsl": True}, "note", "WSL"),
        ({"blind_pairs": (("cuda:0", "cuda:1"),)}, "note", "cuda:0 cannot read the memory of cuda:1"),
        (_cluster(why_not="Install Ray"), "problem", "in a cluster, which this Python cannot reach"),
        (_cluster(ray_version="2.9.0"), "warning", "Ray 2.9.0 is installed"),
        (_cluster(token_is_private=False), "problem", "can read the cluster's token"),
        (_cluster(is_running=False), "note", "does not run here now"),
        (_cluster(shared_bytes=64 << 20), "warning", "/dev/shm has 64 MB"),
        (_nvidia(width=4), "warning", "4 of 16 PCIe lanes"),
        (_nvidia(generation=1), "note", "PCIe 1 of 4"),
        (_nvidia(window_bytes=256 << 20), "note", "256 MB of its 24.0 GB can be accessed"),
        ({"is_profiled": False}, "note", "have not been measured"),
        ({"swap_bytes": 0}, "note", "0 GB of swap"),
        ({"free_bytes": 8 << 30, "free_swap_bytes": 0}, "warning", "flux.safetensors has 24.0 GB, and memory and swap"),
        ({"comfy_aimdo_wanted": "9.9"}, "warning", "but this ComfyUI requires 9.9"),
        (_inside(comfy_aimdo=""), "warning", "comfy-aimdo is not installed, but this ComfyUI requires"),
        (_inside(comfy_aimdo="9.9") | {"comfy_aimdo_wanted": "9.9"}, "note", "comfy-aimdo 9.9 has not been tested"),
        (_inside(knows_dynamic_vram=True), "note", "DynamicVRAM is on"),
        (
            _inside(missing={"splitting models": "x is gone"}),
            "problem",
            "Off in this ComfyUI: splitting models (x is gone)",
        ),
        ({"inside": None, "why_not_inside": "No module named 'torchsde'."}, "warning", "torchsde"),
        ({"packs": (PackHere("ComfyUI-GGUF", "3.0"),)}, "note", "ComfyUI-GGUF 3.0 has not been tested"),
        (
            {"packs": (PackHere("ComfyUI-LTXVideo", "", "f" * 40),)},
            "note",
            "ComfyUI-LTXVideo fffffff has not been tested",
        ),
        ({"failed_plugins": (("theirs", "No module."),)}, "problem", "The plugin theirs cannot be used: No module."),
        (_server(worker_fault="SystemExit: 1"), "problem", "has died: SystemExit: 1"),
        (_server(plugins=None), "warning", "does not have this extension"),
        (_server(plugins=(), silence="refused"), "warning", "No ComfyUI answers at http://127.0.0.1:8188"),
        (_server(plugins=[{"name": "gguf", "enabled": True, "why_not": "Broken."}]), "problem", "gguf failed at http"),
        (
            _server(plugins=[{"name": "gguf", "targets": [{"name": "ComfyUI-GGUF", "state": "import failed"}]}]),
            "warning",
            "could not import ComfyUI-GGUF",
        ),
        (_server(arguments=("main.py", "--cuda-device", "0")), "note", "started with --cuda-device 0"),
    ],
)
def test_each_thing_that_is_wrong_is_found_alone_with_what_to_do(
    change: dict[str, Any], severity: str, told: str
) -> None:
    (finding,) = findings(replace(HEALTHY, **change))
    assert finding.severity == severity and told in finding.what and len(finding.todo) > 10


def test_a_port_that_the_cluster_needs_and_another_program_has_is_named() -> None:
    found = findings(replace(HEALTHY, **_cluster(is_running=False, port_in_use=46201)))
    assert any("Port 46201" in finding.what for finding in found)


def test_a_machine_in_no_cluster_is_told_nothing_of_one() -> None:
    assert findings(replace(HEALTHY, cluster=None)) == []


def test_the_ray_that_it_calls_tested_is_the_one_that_is_installed_with_us() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert set(re.findall(r'"ray==([\d.]+)', text)) == {tested.RAY} == set(re.findall(r"ray==([\d.]+)", INSTALL))


def test_the_worst_comes_first() -> None:
    found = findings(replace(HEALTHY, swap_bytes=0, torch=(2, 3), device_problems=("cuda:1: driver too old",)))
    assert [finding.severity for finding in found] == [Severity.PROBLEM, Severity.WARNING, Severity.NOTE]


def test_windows_has_a_limit_of_its_own_and_hides_cards() -> None:
    told = " ".join(finding.what for finding in findings(replace(HEALTHY, system="Windows")))
    assert "Windows, and 2 GPUs" in told and "half of the memory" in told


@pytest.mark.parametrize(
    "change",
    [
        {"is_wsl": True},
        {"torch": (2, 7)},
        {"nvidia_cards": ()},
        _server(arguments=("main.py", "--disable-dynamic-vram")),
    ],
)
def test_dynamic_vram_is_not_said_to_be_on_where_comfyui_leaves_it_off(change: dict[str, Any]) -> None:
    here = replace(HEALTHY, **_inside(knows_dynamic_vram=True))
    assert not any("DynamicVRAM" in finding.what for finding in findings(replace(here, **change)))


def test_the_versions_that_it_calls_tested_are_those_that_the_readme_names() -> None:
    named = re.search(r"\*\*([\d., and]+)\*\*", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert named is not None and set(re.findall(r"\d+\.\d+\.\d+", named[1])) == set(tested.COMFYUI)


def test_the_versions_that_it_calls_tested_are_those_of_the_compatibility_page() -> None:
    page = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
    assert {row[0] for row in rows if re.fullmatch(r"\d+\.\d+\.\d+", row[0])} == set(tested.COMFYUI)
    assert set(re.findall(r"comfy-aimdo (\d+\.\d+\.\d+)", page)) == set(tested.COMFY_AIMDO)
    packs: dict[str, list[str]] = {}
    for name, ran, seen in ((row[0], row[-2], row[-1]) for row in rows if len(row) == 4):
        found = re.match(r"(\S*[a-z]\S*?)(?: (\d+\.\d+\.\d+))?,? ([0-9a-f]{7})\b", name)
        if found is not None and not (ran == "nothing" and seen.startswith("does not import")):
            packs.setdefault(found[1], []).extend(filter(None, (found[2], found[3])))
    assert packs == {name: list(known) for name, known in tested.PACKS.items()}


def test_nvidia_smi_s_report_is_read_also_where_it_does_not_tell_all() -> None:
    xml = b"""<nvidia_smi_log><gpu id="0"><product_name>A card</product_name>
    <pci><pci_gpu_link_info><pcie_gen><max_link_gen>4</max_link_gen><current_link_gen>1</current_link_gen></pcie_gen>
    <link_widths><max_link_width>16x</max_link_width><current_link_width>8x</current_link_width></link_widths>
    </pci_gpu_link_info></pci><fb_memory_usage><total>24576 MiB</total></fb_memory_usage>
    <bar1_memory_usage><total>256 MiB</total></bar1_memory_usage></gpu>
    <gpu id="1"><product_name>Another</product_name><fb_memory_usage><total>N/A</total></fb_memory_usage></gpu>
    </nvidia_smi_log>"""
    assert list(cards_in(xml)) == [NvidiaCard("A card", 1, 4, 8, 16, 24 << 30, 256 << 20), NvidiaCard("Another")]


def test_a_second_extension_beside_a_comfyui_is_a_problem_and_exits_with_1(tmp_path: Path) -> None:
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.30.0"\n')
    rival = tmp_path / "custom_nodes" / "old"
    rival.mkdir(parents=True)
    (rival / "pyproject.toml").write_text('[project]\nname = "ComfyUI-MultiGPU"\n')
    result = CliRunner().invoke(app, ["doctor", "--comfyui", str(tmp_path)])
    assert result.exit_code == 1 and "custom_nodes/old" in result.stdout and "Remove one" in result.stdout
    found = json.loads(CliRunner().invoke(app, ["doctor", "--comfyui", str(tmp_path), "--json"]).stdout)
    assert Finding(**found[0]).severity == "problem"


def test_a_folder_that_is_none_is_wrong_input() -> None:
    result = CliRunner().invoke(app, ["doctor", "--comfyui", "nowhere"])
    assert result.exit_code == 2 and "'nowhere' does not exist" in " ".join(result.output.split())


@pytest.mark.parametrize("address", ["127.0.0.1:9", "http://127.0.0.1:9/", "file:///etc/hostname"])
def test_a_server_that_does_not_answer_is_told_where_it_was_asked_for(address: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", "--comfyui", str(tmp_path), "--server", address])
    assert "No ComfyUI answers at" in result.output and "Traceback" not in result.output


class _ComfyUIThatRuns(BaseHTTPRequestHandler):
    ANSWERS: ClassVar[dict[str, Any]] = {
        "/system_stats": {"system": {"argv": ["main.py", "--cuda-device", "1"]}},
        "/multigpu/plugins": [{"name": "gguf", "enabled": True, "why_not": "It is \x1b[31mbroken.", "targets": []}],
        "/multigpu/state": {"worker_fault": "ZeroDivisionError: by nothing"},
    }

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(self.ANSWERS[self.path]).encode())

    def log_message(self, *_: Any) -> None:
        pass


def test_a_running_comfyui_is_asked_for_its_plugins_and_flags(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _ComfyUIThatRuns) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_address[1]}"
        result = CliRunner().invoke(app, ["doctor", "--comfyui", str(tmp_path), "--server", address, "--json"])
        server.shutdown()
    told = " ".join(finding["what"] for finding in json.loads(result.stdout))
    assert result.exit_code == 1 and "gguf failed" in told and "--cuda-device 1" in told
    assert "has died: ZeroDivisionError: by nothing" in told


def test_what_a_server_says_cannot_steer_the_terminal(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _ComfyUIThatRuns) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_address[1]}"
        result = CliRunner().invoke(app, ["doctor", "--comfyui", str(tmp_path), "--server", address])
        server.shutdown()
    assert "\x1b" not in result.stdout and r"\x1b[31mbroken" in result.stdout


def test_what_lies_in_a_comfyui_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.30.0"\n')
    pack = tmp_path / "custom_nodes" / "comfyui-gguf"
    pack.mkdir(parents=True)
    (pack / "pyproject.toml").write_text('[project]\nname = "ComfyUI-GGUF"\nversion = "7.7.7"\n')
    (tmp_path / "user" / "multigpu").mkdir(parents=True)
    (tmp_path / "user" / "multigpu" / "plugins.toml").write_text("[integrations]\nguff = false\n")
    models = tmp_path / "models" / "diffusion_models" / "large"
    models.mkdir(parents=True)
    with (models / "huge.safetensors").open("wb") as file:
        file.truncate(1 << 42)  # takes no room on the disk
    result = CliRunner().invoke(app, ["doctor", "--comfyui", str(tmp_path), "--json"])
    told = " ".join(finding["what"] for finding in json.loads(result.stdout))
    for words in ("ComfyUI-GGUF 7.7.7 has not been tested", "did you mean gguf", "huge.safetensors has 4096.0 GB"):
        assert words in told


TOY_FORMAT = """
from multigpu import hookimpl
from multigpu.api import FileFormat

@hookimpl
def multigpu_file_formats():
    return [FileFormat("toy", (".toy",), lambda begins: False, lambda path: [])]
"""


@pytest.mark.parametrize("name", ["a.gguf", "a.sft", "a.pth", "a.bin", "a.toy"])
def test_a_model_file_is_one_of_any_format_that_can_be_loaded(name: str, tmp_path: Path) -> None:
    pack = tmp_path / "custom_nodes" / "toy"
    pack.mkdir(parents=True)
    (pack / "multigpu_plugin.py").write_text(TOY_FORMAT)
    models = tmp_path / "models" / "checkpoints"
    models.mkdir(parents=True)
    for each, size in ((name, 2), ("notes.txt", 3)):
        (models / each).write_bytes(bytes(size))
    assert snapshot(tmp_path).largest_model == (name, 2)
