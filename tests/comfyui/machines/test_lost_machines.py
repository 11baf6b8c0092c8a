"""A machine that is lost: its models run at home, with the same results, until it is back. Interrupts reach it."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
import torch

from multigpu.multigpu_core.cluster.protocol import ClusterError, OperationError
from multigpu.multigpu_core.comfy.machines import machines as machines_module

from ..support.tiny_files import PROMPT
from .conftest import SecondMachine
from .test_models_elsewhere import ENCODERS, VAE, same

LATENT = {"samples": torch.randn(1, 16, 1, 8, 8, generator=torch.Generator().manual_seed(3))}
SECONDS = 60.0


@pytest.fixture
def events() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as events:
        yield events


@pytest.fixture(autouse=True)
def tried_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines_module, "SECONDS_TO_NEXT_TRY", 0.0)


@pytest.mark.parametrize("kind", ["unplugged", "hung"])
def test_a_model_of_a_lost_machine_runs_at_home_and_there_again_when_it_is_back(
    node2: SecondMachine, kind: str
) -> None:
    (here,) = node2.run("VAELoaderMultiGPU", **VAE, device="npu:0")
    expected = node2.run("VAEDecode", vae=here, samples=LATENT)
    (there,) = node2.run("VAELoaderMultiGPU", **VAE, device="node2/npu:1")
    plug = getattr(node2.engine.hosts["node2"], kind)
    plug.set()
    with structlog.testing.capture_logs() as events:
        assert same(node2.run("VAEDecode", vae=there, samples=LATENT), expected)
    lost = [event for event in events if event["event"] == "machine_lost"]
    assert lost[0]["machine"] == "node2" and lost[0]["reason"]
    assert "runs at home instead" in lost[0]["message"]
    assert there.latent_channels == 16
    plug.clear()
    before = node2.submitted("vae.call")
    assert same(node2.run("VAEDecode", vae=there, samples=LATENT), expected)
    assert node2.submitted("vae.call") == before + 1, "the machine is back"
    assert there._model.at_home is None, "and what was loaded at home is not kept"


def test_a_text_encoder_keeps_its_layer_at_home(node2: SecondMachine) -> None:
    encoded = []
    for device in ("npu:0", "node2/npu:1"):
        (clip,) = node2.run("CLIPLoaderMultiGPU", **ENCODERS["CLIPLoaderMultiGPU"], device=device)
        (clip,) = node2.run("CLIPSetLastLayer", clip=clip, stop_at_clip_layer=-2)
        if "/" in device:
            node2.engine.hosts["node2"].unplugged.set()
        encoded.append(node2.run("CLIPTextEncode", clip=clip, text=PROMPT))
    assert same(*encoded)


def test_a_loader_whose_machine_is_gone_loads_at_home(node2: SecondMachine) -> None:
    node2.engine.hosts["node2"].unplugged.set()
    (there,) = node2.run("VAELoaderMultiGPU", **VAE, device="node2/npu:1")
    (here,) = node2.run("VAELoaderMultiGPU", **VAE, device="npu:0")
    assert same(*(node2.run("VAEDecode", vae=vae, samples=LATENT) for vae in (there, here)))


def test_an_error_over_there_names_the_machine_and_is_not_tried_at_home(node2: SecondMachine) -> None:
    (vae,) = node2.run("VAELoaderMultiGPU", **VAE, device="node2/npu:1")
    with pytest.raises(OperationError, match=r"vae\.call failed on node2"):
        node2.run("VAEDecode", vae=vae, samples={"samples": torch.zeros(1, 3, 1, 8, 8)})
    assert vae._model.at_home is None


def test_an_interrupt_ends_the_prompt_here_and_the_work_there(node2: SecondMachine) -> None:
    mm = importlib.import_module("comfy.model_management")
    (vae,) = node2.run("VAELoaderMultiGPU", **VAE, device="node2/npu:1")
    model = next(iter(node2.models[0]._models.values())).first_stage_model
    begun, go_on = threading.Event(), threading.Event()

    def wait(module: Any, inputs: Any) -> None:
        begun.set()
        assert go_on.wait(SECONDS)

    first = next(each for each in model.decoder.modules() if not list(each.children()))
    calls: list[int] = []
    hooks = [first.register_forward_pre_hook(wait)]
    hooks += [each.register_forward_hook(lambda *_: calls.append(1)) for each in model.decoder.modules()]

    def interrupt() -> None:
        assert begun.wait(SECONDS)
        mm.interrupt_current_processing(True)

    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(mm.InterruptProcessingException):
            node2.run("VAEDecode", vae=vae, samples=LATENT)
    finally:
        mm.interrupt_current_processing(False)
        go_on.set()
    assert vae.spacial_compression_decode() == 8, "the worker has answered the next call"
    for hook in hooks:
        hook.remove()
    assert sum(calls) <= 1, "no more of the model was computed"


def test_another_torch_over_there_is_refused_at_the_node(node2: SecondMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    here = machines_module.versions_here()
    monkeypatch.setattr(machines_module, "versions_here", lambda: {**here, "torch": "9.9.0"})
    with pytest.raises(ClusterError, match=r"torch is .* there and 9\.9\.0 at home.*choose a device of this machine"):
        node2.run("VAELoaderMultiGPU", **VAE, device="node2/npu:1")
    assert node2.worker.is_ended


def test_homes_flags_are_the_workers(node2: SecondMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = importlib.import_module("multigpu.multigpu_core.comfy.machines.flags")
    args = importlib.import_module("comfy.cli_args").args
    sent = flags.flags_here()
    assert sent["fp32_vae"] is True and "listen" not in sent and "models_directory" not in sent
    monkeypatch.setattr(args, "fp32_vae", False)
    flags.use_flags({**sent, "listen": "0.0.0.0"})
    assert args.fp32_vae is True and args.listen != "0.0.0.0"
    performance = importlib.import_module("comfy.cli_args").PerformanceFeature
    monkeypatch.setattr(args, "fast", {performance.Fp16Accumulation})
    fast = flags.flags_here()
    monkeypatch.setattr(args, "fast", set())
    flags.use_flags(fast)
    assert args.fast == {performance.Fp16Accumulation}
