"""`multigpu demo`, as a newcomer runs it, on simulated accelerators."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from multigpu.multigpu_core.provisioning.client import ComfyUIClient

DEMO = (sys.executable, "-m", "multigpu", "demo", "--steps", "2", "--directory")


@pytest.mark.usefixtures("comfyui_path")
def test_the_split_model_draws_the_same_picture(tmp_path: Path) -> None:
    result = subprocess.run([*DEMO, str(tmp_path)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Identical to the image of one device" in result.stdout
    assert len(list((tmp_path / "output").glob("*.png"))) == 2
    for device in ("npu:0", "npu:1", "cpu"):
        assert f"\u2502 {device}" in result.stdout


@pytest.mark.usefixtures("comfyui_path")
@pytest.mark.skipif(sys.platform == "win32", reason="sends a POSIX signal")
def test_a_demo_that_is_stopped_stops_its_server(tmp_path: Path) -> None:
    with subprocess.Popen([*DEMO, str(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as demo:
        server = ComfyUIClient(_address_in(tmp_path / "comfyui.log"), tmp_path)
        assert server.answers()
        started_with = server.get("/system_stats")["system"]["argv"]
        demo.send_signal(signal.SIGTERM)
    assert demo.returncode == 128 + signal.SIGTERM
    assert not server.answers()
    assert "--disable-dynamic-vram" in started_with, "without it the picture of one card is rounded otherwise"


def _address_in(log: Path, seconds: float = 600.0) -> str:
    """The address that a starting server writes to its log once it listens."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        text = log.read_text() if log.exists() else ""
        if "To see the GUI go to: http://" in text:
            return text.split("To see the GUI go to: http://")[1].split()[0]
        time.sleep(0.1)
    raise TimeoutError(f"no server in {log}")
