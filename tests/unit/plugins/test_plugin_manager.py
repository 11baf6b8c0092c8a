"""Plugins that are wrong in every way that pluggy lets through: reported, left out, and harmless to the others."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, model_validator

from multigpu import hookimpl, hookspecs
from multigpu.hookspecs import (
    DevicePart,
    LoadedModelInfo,
    NodeVariant,
    OwnNode,
    PackDevices,
    UnloadReason,
    WrappedLoader,
    device_only,
    split_and_device,
)
from multigpu.multigpu_core.plugins import PLUGIN_API, Candidate, Configuration, PluginManager
from multigpu.multigpu_core.settings.configuration import Entry, validated_options


class Good:
    """A plugin that works."""

    @hookimpl
    def multigpu_wrap_loader(self) -> Iterable[WrappedLoader | OwnNode]:
        return [WrappedLoader("GoodLoader", split_and_device("GoodLoader"))]

    @hookimpl
    def multigpu_unload_policy(self, models: Sequence[LoadedModelInfo]) -> Iterable[int]:
        return [model.key for model in models]


class RaisesWhenAsked:
    @hookimpl
    def multigpu_wrap_loader(self) -> Iterable[WrappedLoader | OwnNode]:
        raise RuntimeError("the sky fell")

    @hookimpl
    def multigpu_unload_policy(self) -> Iterable[int]:
        raise RuntimeError("the sky fell")


class RaisesWhileAnswering:
    @hookimpl
    def multigpu_wrap_loader(self) -> Iterable[WrappedLoader | OwnNode]:
        yield WrappedLoader("Half", ())
        raise RuntimeError("the sky fell")


class OneVariantForSeveral:
    @hookimpl
    def multigpu_wrap_loader(self) -> Iterable[WrappedLoader | OwnNode]:
        return [WrappedLoader("Mine", device_only("Mine"))]  # type: ignore[arg-type]


class OnePartForSeveral:
    @hookimpl
    def multigpu_wrap_loader(self) -> Iterable[WrappedLoader | OwnNode]:
        return [WrappedLoader("Mine", (NodeVariant("Ours", "MultiGPU", DevicePart((0,))),))]  # type: ignore[arg-type]


class NamesItsPack:
    @hookimpl
    def multigpu_wrap_loader(self) -> Iterable[WrappedLoader | OwnNode]:
        return [WrappedLoader("Mine", (device_only("Mine"),), pack="My pack")]  # type: ignore[arg-type]


class OneTypeForSeveral:
    @hookimpl
    def multigpu_wrap_loader(self) -> Iterable[WrappedLoader | OwnNode]:
        return [WrappedLoader("Mine", (), PackDevices("MY_MODEL"))]  # type: ignore[arg-type]


class HasADefault:
    @hookimpl
    def multigpu_unload_policy(self, models: Any, bytes_wanted: int = 0) -> Iterable[int]:
        return []


class MisspeltHook:
    @hookimpl
    def multigpu_wrap_loaders(self) -> Iterable[WrappedLoader | OwnNode]:
        return []


class MisspeltParameter:
    @hookimpl
    def multigpu_unload_policy(self, model: Any) -> Iterable[int]:
        return []


class HalfRight(Good):
    """One good hook and one bad: pluggy would leave the good one answering."""

    @hookimpl
    def multigpu_plan_allocation(self, inventory: Any, wishes: Any) -> None:
        return None


class FromTheFuture(Good):
    multigpu_api = PLUGIN_API + 1


class FromThePast(Good):
    multigpu_api = 0


class NoHooks:
    pass


class FailsAtStart(Good):
    @hookimpl
    def multigpu_startup(self) -> None:
        raise RuntimeError("no licence")


class ExitsWhenAsked:
    @hookimpl
    def multigpu_wrap_loader(self) -> Iterable[WrappedLoader | OwnNode]:
        raise SystemExit("goodbye")


class WrapsNothing:
    @hookimpl(wrapper=True)
    def multigpu_wrap_loader(self) -> Any:
        return (yield)


class IsAsync:
    @hookimpl
    async def multigpu_wrap_loader(self) -> Iterable[WrappedLoader | OwnNode]:
        return []


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class FailsUnspeakably:
    @hookimpl
    def multigpu_wrap_loader(self) -> Iterable[WrappedLoader | OwnNode]:
        raise UnspeakableError


class MyOwnException(BaseException):
    pass


class Hostile(BaseException):
    """Raises in whatever is asked of it."""

    def __str__(self) -> str:
        raise MyOwnException

    __repr__ = __str__

    @property
    def __notes__(self) -> list[str]:
        raise MyOwnException

    @property
    def reason(self) -> str:
        raise MyOwnException


class FailsWithoutEnd(Good):
    @hookimpl
    def multigpu_wrap_loader(self) -> Iterable[WrappedLoader | OwnNode]:
        while True:
            yield WrappedLoader("Mine", ())


class TalksWithoutEnd:
    @hookimpl
    def multigpu_wrap_loader(self) -> Iterable[WrappedLoader | OwnNode]:
        raise RuntimeError("\x1b[31m" + "talk " * 100_000)


class EqualsEverything(Good):
    """pluggy compares plugins while it registers the next."""

    def __eq__(self, other: object) -> bool:
        raise MyOwnException

    __hash__ = None  # type: ignore[assignment]

    @hookimpl
    def multigpu_startup(self) -> None:
        raise RuntimeError("and fails")


class OptionsThatExit(Good):
    class Options(BaseModel):
        @model_validator(mode="before")
        @classmethod
        def leave(cls, values: Any) -> Any:
            raise GeneratorExit("no options")


class AttributesThatExit(Good):
    @property
    def multigpu_pack(self) -> str:
        raise SystemExit("no pack")


class OddKey(int):
    def __int__(self) -> int:
        raise MyOwnException

    __index__ = __hash__ = __int__


def leaving(error: BaseException) -> Callable[[], object]:
    """A plugin whose import raises."""

    def load() -> object:
        raise error

    return load


def leaving_when(hook: str, error: BaseException) -> Callable[[], object]:
    """A plugin one of whose hooks raises."""

    def leave(self: object) -> Any:
        raise error

    leave.__name__ = hook
    return type("Leaving", (), {hook: hookimpl(leave)})


class WrongOptions(Good):
    Options = "a model"


def answering(answer: object) -> Callable[[], object]:
    class Answering:
        @hookimpl
        def multigpu_wrap_loader(self) -> Any:
            return answer

    return Answering


def keeping(answer: object) -> Callable[[], object]:
    class Keeping:
        @hookimpl
        def multigpu_unload_policy(self) -> Any:
            return answer

    return Keeping


def _exiting() -> object:
    raise SystemExit("bye")


def _missing() -> object:
    raise ImportError("No module named 'flash_attn'")


MISBEHAVIOURS: dict[str, tuple[Callable[[], object], str]] = {
    "raises when asked": (RaisesWhenAsked, "the sky fell"),
    "raises while answering": (RaisesWhileAnswering, "the sky fell"),
    "has a default": (HasADefault, "bytes_wanted has a default"),
    "misspelt hook": (MisspeltHook, "did you mean multigpu_wrap_loader"),
    "misspelt parameter": (MisspeltParameter, "did you mean models"),
    "half right": (HalfRight, "wishes"),
    "from the future": (FromTheFuture, "update MultiGPU"),
    "from the past": (FromThePast, "update the plugin"),
    "no hooks": (NoHooks, "implements no hook"),
    "fails at start": (FailsAtStart, "no licence"),
    "exits": (_exiting, "bye"),
    "misses a module": (_missing, "flash_attn"),
    "exits when asked": (ExitsWhenAsked, "goodbye"),
    "wraps nothing": (WrapsNothing, "nothing to wrap"),
    "is async": (IsAsync, "Make it a plain function"),
    "fails unspeakably": (FailsUnspeakably, "UnspeakableError"),
    "wrong options": (WrongOptions, "derive it from pydantic.BaseModel"),
    "is a class": (lambda: Good, "an instance of the class"),
    "answers with a text": (answering("MyLoader"), "it takes WrappedLoader or OwnNode"),
    "answers with a number": (answering(3), "not iterable"),
    "gives one variant for several": (OneVariantForSeveral, "variants is a tuple of NodeVariant, as (device_only("),
    "gives one part for several": (OnePartForSeveral, "parts is a tuple of DevicePart"),
    "gives one type for several": (OneTypeForSeveral, "model_types is a tuple of str"),
    "names its pack for its devices": (NamesItsPack, "pack is a PackDevices, not a str"),
    "keeps what cannot be a key": (keeping([[1]]), "answered with a list"),
    "imports and cancels": (leaving(asyncio.CancelledError("stop")), "CancelledError"),
    "imports and closes": (leaving(GeneratorExit("closed")), "GeneratorExit"),
    "imports and raises its own": (leaving(MyOwnException("mine")), "MyOwnException"),
    "imports and raises what cannot be printed": (leaving(Hostile()), "cannot be printed"),
    "starts and cancels": (leaving_when("multigpu_startup", asyncio.CancelledError("stop")), "CancelledError"),
    "answers and raises its own": (leaving_when("multigpu_wrap_loader", MyOwnException("mine")), "MyOwnException"),
    "keeps and closes": (leaving_when("multigpu_unload_policy", GeneratorExit("closed")), "GeneratorExit"),
    "answers without end": (FailsWithoutEnd, "more than 10000 things"),
    "talks without end": (TalksWithoutEnd, "talk talk"),
    "equals everything": (EqualsEverything, "and fails"),
    "options that exit": (OptionsThatExit, "no options"),
    "attributes that exit": (AttributesThatExit, "no pack"),
}
INFO = LoadedModelInfo(7, "Flux", "cuda:0", 100, is_ours=True, keep_loaded=False)


def manager_of(plugins: dict[str, Callable[[], object]], configuration: Configuration | None = None) -> PluginManager:
    manager = PluginManager(hookspecs, configuration)
    manager.register_all(Candidate(name, "a test", "1.0", load) for name, load in plugins.items())
    return manager


@pytest.mark.parametrize("kind", MISBEHAVIOURS)
def test_a_broken_plugin_is_reported_with_its_reason_and_the_others_work(kind: str) -> None:
    broken, reason = MISBEHAVIOURS[kind]
    manager = manager_of({"before": Good, "broken": broken, "after": Good})
    assert [name for name, _ in manager.loaders()] == ["before", "after"]
    assert manager.kept_models([INFO], UnloadReason.USER_FREED, 0) == {7}
    record = manager.records["broken"]
    assert not record.works and record.enabled
    assert reason in record.why_not and record.traceback
    assert len(record.why_not) < 1000 and record.why_not.isprintable()
    assert len(record.traceback) < 50_000 and "\x1b" not in record.traceback
    assert manager.records["before"].works and manager.records["after"].works


@given(kinds=st.lists(st.sampled_from([*MISBEHAVIOURS, "good"]), min_size=6, max_size=12))
def test_whatever_plugins_there_are_every_good_one_works_and_every_failure_is_in_the_report(kinds: list[str]) -> None:
    makers = {f"{i} {kind}": Good if kind == "good" else MISBEHAVIOURS[kind][0] for i, kind in enumerate(kinds)}
    manager = manager_of(makers)
    good = [name for name in makers if name.endswith("good")]
    assert [name for name, _ in manager.loaders()] == good
    manager.kept_models([INFO], UnloadReason.USER_FREED, 0)
    assert set(manager.records) == set(makers)
    assert [name for name, record in manager.records.items() if record.works] == good


def test_a_plugin_that_is_switched_off_is_listed_and_never_imported(tmp_path: Any) -> None:
    off = Configuration(switches={"heavy": Entry(False, tmp_path, 1)})
    manager = manager_of({"heavy": lambda: pytest.fail("imported"), "light": Good}, off)
    assert not manager.records["heavy"].enabled
    assert manager.records["light"].works


def test_the_default_switch_speaks_for_plugins_without_an_entry_of_their_own(tmp_path: Any) -> None:
    cautious = Configuration(switches={"default": Entry(False, tmp_path, 1), "wanted": Entry(True, tmp_path, 2)})
    manager = manager_of({"wanted": Good, "unknown": Good}, cautious)
    assert manager.records["wanted"].works and not manager.records["unknown"].enabled


def test_the_second_plugin_of_a_name_is_left_out_and_both_are_in_the_report() -> None:
    manager = PluginManager(hookspecs)
    manager.register_all([Candidate("twin", "first", "1", Good), Candidate("twin", "second", "2", Good)])
    first, second = manager.records.values()
    assert (first.source, first.works) == ("first", True)
    assert (second.source, second.works) == ("second", False) and "first" in second.why_not


def test_a_plugin_gets_its_options_checked_and_with_defaults(tmp_path: Any) -> None:
    class Options(BaseModel):
        depth: int = 2
        colour: str = "red"

    class Configured(Good):
        def __init__(self) -> None:
            self.Options = Options
            self.seen: BaseModel | None = None

        @hookimpl
        def multigpu_startup(self, options: BaseModel | None) -> None:
            self.seen = options

    plugin = Configured()
    entries = {
        "depth": Entry("deep", tmp_path, 3),
        "color": Entry("blue", tmp_path, 4),
        "colour": Entry("green", tmp_path, 5),
    }
    manager = manager_of({"configured": lambda: plugin}, Configuration(options={"configured": entries}))
    assert plugin.seen == Options(depth=2, colour="green")
    assert [(problem.line, problem.key) for problem in manager.problems] == [
        (3, "integrations.configured.depth"),
        (4, "integrations.configured.color"),
    ]
    assert "did you mean colour" in manager.problems[1].reason


def test_an_option_that_needs_another_is_judged_with_it_and_options_of_a_plugin_without_any_are_told(
    tmp_path: Any,
) -> None:
    class Options(BaseModel):
        first: int = 0
        second: int = 0

        @model_validator(mode="after")
        def in_order(self) -> Options:
            if self.second > self.first:
                raise ValueError("second is above first")
            return self

    def entries(**values: int) -> dict[str, Entry]:
        return {key: Entry(value, tmp_path, line) for line, (key, value) in enumerate(values.items())}

    class Configured(Good):
        pass

    Configured.Options = Options  # type: ignore[attr-defined]
    options = {"right": entries(first=3, second=2), "wrong": entries(second=2), "plain": entries(second=2)}
    manager = manager_of({"right": Configured, "wrong": Configured, "plain": Good}, Configuration(options=options))
    wrong, plain = manager.problems
    assert wrong.key == "integrations.wrong.second" and "above first" in wrong.reason
    assert plain.key == "integrations.plain.second" and "no options" in plain.reason
    assert all(record.works for record in manager.records.values())


def test_an_option_that_a_plugin_needs_is_given_in_any_order(tmp_path: Any) -> None:
    class Options(BaseModel):
        depth: int = 2
        name: str

    entries = {"depth": Entry("deep", tmp_path, 1), "name": Entry("a", tmp_path, 2)}
    options, (problem,) = validated_options(Options, entries, "needy")
    assert options == Options(name="a")
    assert problem.key == "integrations.needy.depth"


def test_every_plugin_is_told_of_the_end_though_one_raises() -> None:
    told: list[str] = []

    class Tidy(Good):
        @hookimpl
        def multigpu_shutdown(self) -> None:
            told.append("tidy")

    class Untidy(Good):
        @hookimpl
        def multigpu_shutdown(self) -> None:
            raise OSError("the file is open")

    manager = manager_of({"first": Tidy, "untidy": Untidy, "last": Tidy})
    manager.shut_down()
    assert told == ["tidy", "tidy"]
    assert "the file is open" in manager.records["untidy"].why_not


def test_hooks_are_read_without_torch() -> None:
    import subprocess
    import sys

    code = "import sys, multigpu.hookspecs, multigpu.integrations.comfy_core; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_key_that_is_odd_is_the_number_that_it_is() -> None:
    manager = manager_of({"odd": keeping([OddKey(7)])})
    assert manager.kept_models([INFO], UnloadReason.USER_FREED, 0) == {7}


def test_the_user_s_interrupt_goes_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        manager_of({"slow": leaving(KeyboardInterrupt())})
    manager = manager_of({"slow": leaving_when("multigpu_wrap_loader", KeyboardInterrupt())})
    with pytest.raises(KeyboardInterrupt):
        list(manager.loaders())


def test_names_from_outside_are_made_printable_and_cut() -> None:
    manager = PluginManager(hookspecs)
    manager.register_all(
        [
            Candidate.found("a\x1b[2J\n", "b\r", "1\x07", Good),
            Candidate.found("n" * 10**6, "", "", Good),
            Candidate.found("", "s", "", Good),
        ]
    )
    assert all(record.works for record in manager.records.values())
    first, second, third = manager.records.values()
    assert (first.name, first.source, first.version) == ("a\\x1b[2J\\n", "b\\r", "1\\x07")
    assert len(second.name) < 400 and third.name == "unnamed, of s"


class Gate:
    """Lets a plugin's step wait, and the test see that it goes on: no clock is involved."""

    def __init__(self) -> None:
        self.held = threading.Event()
        self.open = threading.Event()
        self.passed = threading.Event()

    def hold(self) -> None:
        self.held.set()
        self.open.wait()
        self.passed.set()


def hanging(where: str, gate: Gate) -> Callable[[], object]:
    class Hanging(Good):
        @hookimpl
        def multigpu_startup(self) -> None:
            if where == "multigpu_startup":
                gate.hold()

        @hookimpl
        def multigpu_wrap_loader(self) -> Iterable[WrappedLoader | OwnNode]:
            if where == "multigpu_wrap_loader":
                gate.hold()
            return [WrappedLoader("Late", split_and_device("Late"))]

    def load() -> object:
        if where == "Its import":
            gate.hold()
        return Hanging()

    return load


@pytest.mark.parametrize(("where", "number"), [("Its import", 1), ("multigpu_startup", 2), ("multigpu_wrap_loader", 5)])
def test_a_plugin_that_hangs_is_named_and_left_out_also_when_it_wakes_up_later(where: str, number: int) -> None:
    gate = Gate()
    steps = itertools.count()

    def wait(ended: threading.Event) -> bool:
        """The deadline of the step that hangs is over; every other step is waited for to its end."""
        return ended.wait() if next(steps) != number else gate.held.wait() and False

    manager = PluginManager(hookspecs, wait=wait)
    plugins = {"before": Good, "hangs": hanging(where, gate), "after": Good}
    manager.register_all(Candidate(name, "a test", "1.0", load) for name, load in plugins.items())
    assert [name for name, _ in manager.loaders()] == ["before", "after"]
    record = manager.records["hangs"]
    assert record.why_not.startswith(f"{where} did not end in time: it is in test_plugin_manager.py, line ")
    gate.open.set()
    gate.passed.wait()
    for thread in threading.enumerate():
        if thread.name == "MultiGPU plugin hangs":
            thread.join()
    assert [name for name, _ in manager.loaders()] == ["before", "after"]
    assert manager.records["hangs"] == record
    assert manager.kept_models([INFO], UnloadReason.USER_FREED, 0) == {7}


def test_without_a_deadline_everything_runs_where_it_is_asked(tmp_path: Any) -> None:
    threads: list[threading.Thread] = []

    def load() -> object:
        threads.append(threading.current_thread())
        return Good()

    patient = Configuration(core={("startup", "plugin_seconds"): Entry(0, tmp_path, 1)})
    assert manager_of({"patient": load}, patient).records["patient"].works
    assert threads == [threading.main_thread()]
    assert manager_of({"patient": load}).records["patient"].works
    assert threads[1].daemon and threads[1] is not threading.main_thread()
