"""Blocks that compute on a donor make the resident model's numbers, whatever the model does between them."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from multigpu.multigpu_core.devices import DeviceRegistry
from multigpu.testing import SimulatedMachine

from .relayed import COMPUTE, WIDTH, Block, Glue, InPlace, Model, in_turn, inputs, relayed, resident

DEVICES = ("npu:0", "npu:1", "npu:2", "cpu")
GB = 2**30


@pytest.fixture(autouse=True)
def machine(simulated_machine: SimulatedMachine) -> SimulatedMachine:
    simulated_machine.configure([GB, GB, GB])
    return simulated_machine


@pytest.fixture(params=["inference mode", "no gradients"], autouse=True)
def mode(request: pytest.FixtureRequest) -> Iterator[None]:
    with torch.inference_mode() if request.param == "inference mode" else torch.no_grad():
        yield


def residuals(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
    for block in blocks:
        x = x + 0.5 * block(x)
    return x


def residuals_in_place(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
    for block in blocks:
        x += block(x)
    return x


def control_residuals(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
    control = [torch.full((3, 2), 0.1 * i, device=COMPUTE) for i in range(len(blocks))]
    for block, add in zip(blocks, control, strict=True):
        x = block(x)
        x[:, : add.shape[1]] += add
    return x


def two_parts(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
    text = x[:1] * 2
    for block in blocks:
        both = block(torch.cat((text, x), 0))
        text, x = both[:1], both[1:]
    return x


def kept_on_the_compute_device(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
    kept = torch.zeros_like(x)
    for block in blocks:
        x = block(x)
        kept += x
        kept[:, 1:3] *= x[:, 1:3]
    return kept


def results_ignored(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
    for i, block in enumerate(blocks):
        block(x)
        x += i
    return x


def skips(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
    seen = []
    for block in blocks[: len(blocks) // 2]:
        x = block(x)
        seen.append(x)
    for block in blocks[len(blocks) // 2 :]:
        x = block(x + seen.pop())
    return x


def new_tensors_between(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
    for i, block in enumerate(blocks):
        x = block(x)
        mask = torch.arange(WIDTH, device=x.device) % (i + 2) == 0
        offset = torch.ones(WIDTH, device=x.device)
        x = torch.where(mask, x, x * offset) + torch.stack([offset, offset]).mean(0)
    return x


def parameters_between(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
    adapter = nn.Linear(WIDTH, WIDTH, device=COMPUTE)
    nn.init.eye_(adapter.weight)
    nn.init.zeros_(adapter.bias)
    for block in blocks:
        x = x + adapter(block(x))
    return x


def another_way_each_time(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
    for i in (0, 1, 2, 1, 5, 0, 7, 6, 3, 2, 4, 4):
        x = blocks[i](x)
        x = blocks[(i + 1) % 8].layers[0](x)  # type: ignore[union-attr, index]
    return x


GLUES: tuple[Glue, ...] = (
    in_turn, residuals, residuals_in_place, control_residuals, two_parts, kept_on_the_compute_device, results_ignored,
    skips, new_tensors_between, parameters_between, another_way_each_time,
)  # fmt: skip
PLACES = (
    ("npu:1",) * 8,
    ("npu:0", "npu:0", "npu:1", "npu:1", "npu:0", "npu:1", "npu:1", "npu:1"),
    ("npu:0", "npu:1", "npu:1", "npu:2", "npu:2", "npu:0", "npu:1", "cpu"),
)


@pytest.mark.parametrize("block", [Block, InPlace])
@pytest.mark.parametrize("places", PLACES, ids="-".join)
@pytest.mark.parametrize("glue", GLUES)
def test_what_the_model_does_between_its_blocks_has_the_same_effect(
    glue: Glue, places: Sequence[str], block: type[nn.Module]
) -> None:
    model = Model(glue, [block() for _ in range(8)])
    expected = resident(model)(inputs()).cpu()
    distribution = relayed(model, places)
    for _ in range(3):
        output = model(inputs())
        assert type(output) is Tensor
        assert output.device == torch.device(COMPUTE)
        assert torch.equal(output.cpu(), expected)
    distribution.release()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@given(
    program=st.lists(st.tuples(st.integers(0, 3), st.sampled_from("wif")), min_size=1, max_size=8),
    places=st.lists(st.sampled_from(DEVICES), min_size=4, max_size=4),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_of_calls_gives_the_resident_model_s_numbers(
    program: list[tuple[int, str]], places: list[str]
) -> None:
    def glue(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        for index, how in program:
            block: Any = blocks[index]
            x = {"w": block, "i": block.layers[0], "f": lambda x, b=block: b(x=x)}[how](x)
        return x

    model = Model(glue, [Block() for _ in range(4)])
    expected = resident(model)(inputs()).cpu()
    relayed(model, places)
    for _ in range(2):
        assert torch.equal(model(inputs()).cpu(), expected)


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


@dataclass(frozen=True)
class Modulation:
    shift: Tensor
    scale: Tensor | None = None


class Nested(Block):
    """Takes and gives tensors inside of everything, writes into a dict, and checks who is who."""

    def forward(self, x: Tensor, **options: Any) -> Any:
        state, pair, mods = options["state"], options["pair"], options["mods"]
        assert pair.first is x and mods[0].shift is x, "one tensor is one tensor"
        assert state["itself"] is state
        x = super().forward(x) + pair.second + mods[0].shift + state["deep"][0]["bias"]
        state["seen"] = x * 2
        return {"x": x, "pairs": [Pair(x, pair.second)], "mods": (Modulation(x), None, "text")}


def nested_glue(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
    bias = torch.ones(WIDTH, device=COMPUTE)
    state: dict[str, Any] = {"deep": [{"bias": bias}], "number": 3}
    state["itself"] = state
    deep = state["deep"][0]
    for block in blocks:
        result = block(x, state=state, pair=Pair(x, bias), mods=[Modulation(x)])
        assert result["pairs"][0].first is result["x"] is result["mods"][0].shift
        assert result["pairs"][0].second is bias, "what is passed through comes back as itself"
        assert state["deep"][0] is deep and deep["bias"] is bias
        x = result["x"] + state["seen"]
    return x


def test_tensors_inside_dicts_lists_tuples_and_dataclasses_travel_and_keep_their_identity() -> None:
    model = Model(nested_glue, [Nested() for _ in range(4)])
    expected = resident(model)(inputs()).cpu()
    relayed(model, ("npu:0", "npu:1", "npu:1", "npu:2"))
    for _ in range(2):
        assert torch.equal(model(inputs()).cpu(), expected)


class Timestep:
    """An argument as LTX-2 passes it: an object with tensors in its slots."""

    __slots__ = ("data", "frames")

    def __init__(self, data: Tensor) -> None:
        self.data, self.frames = data, 3


class TakesObject(Block):
    def forward(self, x: Tensor, timestep: Any = None, **options: Any) -> Tensor:
        return super().forward(x) + timestep.data[: timestep.frames]


def test_the_tensors_of_an_object_that_a_block_is_given_travel_and_the_object_stays_as_it_was() -> None:
    def glue(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        timestep = Timestep(2 * x)
        given = timestep.data
        for block in blocks:
            x = block(x, timestep=timestep)
        assert timestep.data is given
        return x

    model = Model(glue, [TakesObject() for _ in range(4)])
    expected = resident(model)(inputs()).cpu()
    relayed(model, ["npu:1", "npu:0", "npu:2", "cpu"])
    assert torch.equal(model(inputs()).cpu(), expected)


class TakesFunction(Block):
    def forward(self, x: Tensor, attention: Any, **options: Any) -> Tensor:
        return attention(super().forward(x))


def test_the_tensors_that_a_function_was_made_with_travel_and_the_function_stays_as_it_was() -> None:
    """Qwen-Image 2.1 passes its attention so, with the masks of its segments."""
    homes = []

    def glue(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        mask, segments, written = 2 * x, [(0, x + 1), (1, None)], torch.zeros_like(x)

        def attention(y: Tensor, *, scale: float = 0.5) -> Tensor:
            written.add_(y)
            return y * mask * scale + segments[0][1]

        for block in blocks:
            x = block(x, attention)
        homes.append({str(tensor.device) for tensor in (mask, written, segments[0][1])})
        return x + written

    model = Model(glue, [TakesFunction() for _ in range(5)])
    expected = resident(model)(inputs())
    relayed(model, ["npu:1", "npu:1", "npu:2", "cpu", "npu:1"])
    assert torch.equal(model(inputs()), expected) and torch.equal(model(inputs()), expected)
    assert homes == [{COMPUTE}] * 3


class NotesLayout(Block):
    strides: tuple[int, ...] = ()

    def forward(self, x: Tensor, text: Any = None, **options: Any) -> Tensor:
        self.strides = text.stride()
        return super().forward(x) + text.sum(0)


def test_an_expanded_argument_crosses_once_and_stays_expanded(machine: SimulatedMachine) -> None:
    """A kernel may round by the layout of its operands, and so may the picture."""

    def glue(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        text = torch.ones(1, WIDTH, device=COMPUTE).expand(1000, 1, WIDTH)
        return blocks[0](x, text=text)  # type: ignore[no-any-return]

    block = NotesLayout()
    model = Model(glue, [block])
    expected = resident(model)(inputs()).cpu()
    relayed(model, ["npu:1"])
    machine.copies.clear()
    assert torch.equal(model(inputs()).cpu(), expected)
    assert block.strides[0] == 0
    assert machine.copies.bytes_moved("npu:0", "npu:1") < 1000 * WIDTH


class Positions(Block):
    """As in UMT5: each block has a position bias of its own, which stays on the compute device."""

    def __init__(self) -> None:
        super().__init__()
        self.relative_attention_bias = nn.Embedding(4, WIDTH)

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        places = torch.arange(x.shape[0], device=x.device)
        return super().forward(x) + self.relative_attention_bias(places)


def test_a_head_inside_a_block_on_a_donor_computes_on_its_own_device() -> None:
    model = Model(in_turn, [Positions() for _ in range(3)])
    expected = resident(model)(inputs()).cpu()
    relayed(model, ["npu:1", "npu:0", "npu:2"])
    assert model.blocks[0].relative_attention_bias.weight.device == torch.device(COMPUTE)
    assert torch.equal(model(inputs()).cpu(), expected)


def test_what_is_changed_in_place_between_blocks_is_changed_under_its_other_name_too() -> None:
    def glue(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        given = x
        x = blocks[0](given)
        x += 1
        return in_turn(blocks[1:], x + 0.5 * given)

    model = Model(glue, [InPlace() for _ in range(4)])
    expected = resident(model)(inputs()).cpu()
    relayed(model, ("npu:1", "npu:1", "npu:0", "npu:1"))
    for _ in range(3):
        assert torch.equal(model(inputs()).cpu(), expected)


def test_activations_cross_twice_for_each_run_of_blocks_and_weights_never(machine: SimulatedMachine) -> None:
    model = Model(in_turn, [Block() for _ in range(8)])
    relayed(model, ("npu:0", "npu:1", "npu:1", "npu:1", "npu:0", "npu:1", "npu:1", "npu:0"))
    model(inputs())
    x = inputs()
    machine.copies.clear()
    model(x)
    moved = [(record.source, record.destination, record.bytes) for record in machine.copies.records]
    assert moved == [("npu:0", "npu:1", x.nbytes), ("npu:1", "npu:0", x.nbytes)] * 2


def test_between_two_donors_activations_go_straight(machine: SimulatedMachine) -> None:
    model = Model(in_turn, [Block() for _ in range(4)])
    relayed(model, ("npu:0", "npu:1", "npu:2", "npu:0"))
    model(inputs())
    x = inputs()
    machine.copies.clear()
    model(x)
    hops = [(record.source, record.destination) for record in machine.copies.records]
    assert hops == [("npu:0", "npu:1"), ("npu:1", "npu:2"), ("npu:2", "npu:0")]


class Positioned(Block):
    def forward(self, x: Tensor, **options: Any) -> Tensor:
        return super().forward(x) * options["pe"]


def test_what_is_constant_over_a_step_crosses_once(machine: SimulatedMachine) -> None:
    def glue(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        pe = torch.cos(torch.ones(WIDTH, device=x.device))
        for block in blocks:
            x = block(x, pe=pe)
        return x

    model = Model(glue, [Positioned() for _ in range(8)])
    expected = resident(model)(inputs()).cpu()
    relayed(model, ("npu:0", "npu:1") * 4)
    model(inputs())
    for _ in range(2):
        x = inputs()
        machine.copies.clear()
        assert torch.equal(model(x).cpu(), expected)
        assert machine.copies.bytes_moved("npu:0", "npu:1") == 4 * x.nbytes + WIDTH * 4


def test_what_only_looks_constant_crosses_again() -> None:
    def glue(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        pe = torch.ones(WIDTH, device=x.device)
        for block in blocks:
            x = block(x, pe=pe)
            pe *= 1.5
        return x

    model = Model(glue, [Positioned() for _ in range(6)])
    expected = resident(model)(inputs()).cpu()
    relayed(model, ("npu:0", "npu:1", "npu:1", "npu:0", "npu:1", "npu:0"))
    for _ in range(3):
        assert torch.equal(model(inputs()).cpu(), expected)


class Overwriting(Positioned):
    """Writes into what it is given once it is told to, and not in the step in which constants are learned."""

    overwrites = False

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        x = super().forward(x, **options)
        if self.overwrites:
            options["pe"].mul_(3)
        return x


def test_a_constant_whose_copy_a_block_has_overwritten_crosses_again() -> None:
    def glue(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        pe = torch.cos(torch.ones(WIDTH, device=x.device))
        ours = pe.clone()
        for block in blocks:
            x = block(x, pe=pe)
            pe.copy_(ours)  # as nothing had been written
        return x

    model = Model(glue, [Overwriting() for _ in range(4)])
    reference = resident(model)
    relayed(model, ("npu:0", "npu:1", "npu:1", "npu:2"))
    for overwrites in (False, False, True, True):
        for each in (*model.blocks, *reference.blocks):
            each.overwrites = overwrites
        assert torch.equal(model(inputs()).cpu(), reference(inputs()).cpu())


def test_after_a_step_donors_hold_their_weights_and_nothing_else(machine: SimulatedMachine) -> None:
    model = Model(control_residuals, [InPlace() for _ in range(8)])
    relayed(model, ("npu:1", "npu:1", "npu:2", "npu:0") * 2)
    x = inputs()
    weights = [device.live_bytes for device in machine.devices]
    gc.disable()
    try:
        for _ in range(2):
            output = model(x)
            assert [device.live_bytes for device in machine.devices][1:] == weights[1:]
            del output
        assert [device.live_bytes for device in machine.devices] == weights
    finally:
        gc.enable()


def test_a_result_that_somebody_keeps_holds_on_to_nothing_of_the_relay() -> None:
    kept: list[Tensor] = []

    def glue(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        for block in blocks:
            x = block(x)
            kept.append(x)
        return x

    model = Model(glue, [Block() for _ in range(3)])
    relayed(model, ("npu:1", "npu:1", "npu:0"))
    model(inputs())  # which block follows which is known from now on
    kept.clear()
    model(inputs())
    assert [(type(each), each.device, vars(each)) for each in kept] == [(Tensor, torch.device(COMPUTE), {})] * 3


class Interrupted(BaseException):
    """As ComfyUI's: no Exception, so that torch calls no hook."""


def test_a_first_step_that_is_interrupted_teaches_nothing_about_constants() -> None:
    interrupted: list[BaseException] = []

    def glue(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        pe = torch.ones(WIDTH, device=x.device)
        for index, block in enumerate(blocks):
            x = block(x, pe=pe)
            if index == 2:
                if interrupted:
                    raise interrupted.pop()
                pe *= 1.5
        return x

    model = Model(glue, [Positioned() for _ in range(5)])
    expected = resident(model)(inputs()).cpu()
    relayed(model, ("npu:1", "npu:0", "npu:1", "npu:0", "npu:1"))
    interrupted.append(Interrupted())
    with pytest.raises(Interrupted):
        model(inputs())
    for _ in range(2):
        assert torch.equal(model(inputs()).cpu(), expected)


def test_after_an_error_results_are_home_without_another_step() -> None:
    errors: list[Exception] = []
    kept: list[Tensor] = []

    def glue(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        for block in blocks:
            x = block(x)
            kept.append(x)
            if errors and len(kept) == 2:
                raise errors.pop()
        return x

    model = Model(glue, [Block() for _ in range(3)])
    relayed(model, ("npu:1", "npu:1", "npu:1"))
    model(inputs())  # which block follows which is known from now on
    kept.clear()
    errors.append(ValueError())
    with pytest.raises(ValueError):
        model(inputs())
    assert [(type(each), each.device) for each in kept] == [(Tensor, torch.device(COMPUTE))] * 2


class Breaking(Block):
    raised: BaseException | None = None

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        options["state"]["written"] = x
        if self.raised is not None:
            raise self.raised
        return super().forward(x)


@pytest.mark.parametrize("raised", [ValueError(), Interrupted()], ids=["exception", "interrupt"])
@pytest.mark.parametrize("place", ["in a block", "between blocks"])
def test_a_forward_that_breaks_off_leaves_nothing_behind(
    machine: SimulatedMachine, raised: BaseException, place: str
) -> None:
    state: dict[str, Any] = {}
    between: list[BaseException] = []

    def glue(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        state["constant"] = constant = x * 2
        for i, block in enumerate(blocks):
            x = block(x, state=state)
            if between and i == 2:
                raise between.pop()
        assert state["constant"] is constant
        state.clear()
        return x

    blocks = [Breaking() for _ in range(6)]
    model = Model(glue, blocks)
    expected = resident(model)(inputs()).cpu()
    distribution = relayed(model, ("npu:0", "npu:1", "npu:1", "npu:1", "npu:2", "npu:0"))
    x = inputs()
    model(x)
    held = [device.live_bytes for device in machine.devices]
    if place == "in a block":
        blocks[2].raised = raised
    else:
        between.append(raised)
    with pytest.raises(type(raised)):
        model(x)
    distribution.settle()
    assert machine.module.current_device() == 0
    assert state["constant"].device == torch.device(COMPUTE)
    blocks[2].raised = raised.__traceback__ = None
    state.clear()
    assert [device.live_bytes for device in machine.devices] == held
    assert torch.equal(model(x).cpu(), expected)


def test_a_donor_is_the_current_device_while_its_block_runs_and_no_longer(machine: SimulatedMachine) -> None:
    seen: list[int] = []

    class Looking(Block):
        def forward(self, x: Tensor, **options: Any) -> Tensor:
            seen.append(machine.module.current_device())
            return super().forward(x)

    def glue(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        for block in blocks:
            x = block(x)
            seen.append(machine.module.current_device())
        return x

    model = Model(glue, [Looking() for _ in range(4)])
    relayed(model, ("npu:1", "npu:1", "npu:0", "npu:2"))
    for _ in range(2):
        seen.clear()
        model(inputs())
        assert seen == [1, 0, 1, 0, 0, 0, 2, 0]


@pytest.mark.parametrize("fails", [False, True])
def test_a_donor_is_left_before_the_model_goes_on(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """Left by the relay, and not by whoever collects the garbage."""
    inside: list[str] = []
    made = DeviceRegistry.device_scopes

    class Scope:
        def __init__(self, scope: AbstractContextManager[object], device: str) -> None:
            self._scope, self._device = scope, device
            scopes.append(self)

        def __enter__(self) -> None:
            inside.append(self._device)
            self._scope.__enter__()

        def __exit__(self, *error: Any) -> None:
            inside.remove(self._device)
            self._scope.__exit__(*error)

    scopes: list[Scope] = []
    monkeypatch.setattr(
        DeviceRegistry, "device_scopes", lambda registry, name: lambda: Scope(made(registry, name)(), name)
    )
    seen: list[list[str]] = []

    class Looking(Breaking):
        def forward(self, x: Tensor, **options: Any) -> Tensor:
            seen.append(list(inside))
            return super().forward(x, state={})

    def glue(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
        for block in blocks:
            x = block(x)
            assert inside == [COMPUTE], "the model's own code computes on its own device"
        return x

    blocks = [Looking() for _ in range(4)]
    model = Model(glue, blocks)
    relayed(model, ("npu:1", "npu:1", "npu:0", "npu:2"))
    model(inputs())
    assert seen == [[COMPUTE, "npu:1"], [COMPUTE, "npu:1"], [COMPUTE], [COMPUTE, "npu:2"]] and not inside
    if fails:
        blocks[3].raised = ValueError()
        with pytest.raises(ValueError):
            model(inputs())
        assert not inside


def test_hooks_of_other_extensions_see_and_change_what_they_always_could() -> None:
    def model_with_hooks() -> tuple[Model, list[Tensor]]:
        torch.manual_seed(0)
        model = Model(in_turn, [Block() for _ in range(4)])
        seen: list[Tensor] = []
        added = torch.ones(WIDTH, device=COMPUTE)
        for block in model.blocks:
            block.register_forward_pre_hook(lambda module, args: (args[0] + added,))
            block.register_forward_hook(lambda module, args, output: seen.append(output) or output + added)
        return model, seen

    whole, expected_seen = model_with_hooks()
    whole.to(COMPUTE)
    expected = whole(inputs()).cpu()
    model, seen = model_with_hooks()
    relayed(model, ("npu:0", "npu:1", "npu:1", "npu:0"))
    for _ in range(2):
        seen.clear()
        assert torch.equal(model(inputs()).cpu(), expected)
        assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(seen, expected_seen, strict=True))


def test_a_replaced_forward_runs_on_the_donor() -> None:
    model = Model(in_turn, [Block() for _ in range(4)])
    whole = resident(model)
    for each in (model, whole):
        block: Any = each.blocks[2]  # type: ignore[index]
        block.forward = lambda x, block=block: type(block).forward(block, x) * 2
    expected = whole(inputs()).cpu()
    relayed(model, ("npu:0", "npu:1", "npu:1", "npu:0"))
    for _ in range(2):
        assert torch.equal(model(inputs()).cpu(), expected)


@pytest.mark.parametrize("how", ["the blocks", "the blocks, without a break", "the whole model"])
@pytest.mark.parametrize("block", [Block, InPlace])
def test_compiled_models_are_relayed_as_well(how: str, block: type[nn.Module]) -> None:
    torch._dynamo.reset()
    model = Model(residuals, [block() for _ in range(4)])
    expected = resident(model)(inputs()).cpu()
    run = torch.compile(model, backend="eager") if how == "the whole model" else model
    if how != "the whole model":
        for each in model.blocks:
            each.compile(backend="eager", fullgraph="without" in how)
    relayed(model, ("npu:0", "npu:1", "npu:1", "npu:0"))
    for _ in range(3):
        assert torch.allclose(run(inputs()).cpu(), expected, atol=1e-6)
