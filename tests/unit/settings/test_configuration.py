"""plugins.toml: layers, and what is wrong in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multigpu.multigpu_core.plugins import read_configuration, user_files
from multigpu.multigpu_core.settings.core_settings import SECTIONS
from multigpu.multigpu_core.strategies.built_in import built_in_strategies

SHIPPED = Path(__file__).parents[3] / "plugins.toml"


def written(folder: Path, text: str, name: str = "plugins.toml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def test_the_shipped_file_has_no_problem() -> None:
    configuration = read_configuration([SHIPPED])
    assert not configuration.problems
    assert configuration.is_enabled("comfy_core")


def test_a_later_file_overrides_an_earlier_one_entry_by_entry(tmp_path: Path) -> None:
    first = written(tmp_path, "[integrations]\na = true\nb = false\n[planner]\nstrategy = 'contiguous'\n", "first.toml")
    second = written(tmp_path, "[integrations]\na = false\n", "second.toml")
    configuration = read_configuration([first, second])
    assert (configuration.is_enabled("a"), configuration.is_enabled("b")) == (False, False)
    assert configuration.planner.strategy == "contiguous"


def test_a_plugin_s_table_switches_it_and_holds_its_options(tmp_path: Path) -> None:
    file = written(tmp_path, "[integrations.gguf]\nenabled = false\ncache = 3\n")
    configuration = read_configuration([file])
    assert not configuration.is_enabled("gguf")
    assert {key: entry.value for key, entry in configuration.options["gguf"].items()} == {"cache": 3}


def test_the_user_s_own_file_and_the_one_that_the_environment_names_are_found(tmp_path: Path) -> None:
    (tmp_path / "multigpu").mkdir()
    own = written(tmp_path / "multigpu", "")
    named = tmp_path / "elsewhere.toml"
    assert user_files(tmp_path, {"MULTIGPU_PLUGINS": str(named)}) == [own, named]
    assert user_files(tmp_path / "nobody", {}) == []


@pytest.mark.parametrize(
    ("text", "line", "key", "hint"),
    [
        ("[integration]\na = true\n", 2, "integration.a", "did you mean integrations"),
        ("\n[planner]\nstratgy = 'contiguous'\n", 3, "planner.stratgy", "did you mean strategy"),
        ("[integrations]\ncomfy_core = 'yes'\n", 2, "integrations.comfy_core", "true or false"),
        ("[integrations.gguf]\nenabled = 1\n", 2, "integrations.gguf.enabled", "true or false"),
        ("[memory]\npage_locked_fraction = 1.5\n", 2, "memory.page_locked_fraction", "to 1, not 1.5"),
        ("[memory]\npage_locked_fraction = '50%'\n", 2, "memory.page_locked_fraction", "valid number"),
        ("[memory]\npage_locked_fraction = true\n", 2, "memory.page_locked_fraction", "valid number"),
        ("[memory]\npage_locked_fraction = nan\n", 2, "memory.page_locked_fraction", "finite"),
        ("[memory]\npage_locked = 0\n", 2, "memory.page_locked", "did you mean page_locked_fraction"),
        ("planner = 3\n", 1, "planner", "section"),
        ("[logging]\nlevel = 7\n", 2, "logging.level", "debug"),
        ('[integrations]\n"my pack.v2" = 1\n', 2, "integrations.my pack.v2", "true or false"),
        ("\n[[planner]]\nstrategy = 1\n", 2, "planner", "section"),
    ],
)
def test_a_wrong_entry_names_file_line_key_and_what_would_be_right(
    tmp_path: Path, text: str, line: int, key: str, hint: str
) -> None:
    file = written(tmp_path, text)
    configuration = read_configuration([SHIPPED, file])
    (problem,) = configuration.problems
    assert (problem.file, problem.line, problem.key) == (file, line, key)
    assert hint in problem.reason
    assert "restart ComfyUI" in str(problem)
    assert configuration.planner.strategy == "interleave"


def test_page_locked_memory_is_half_of_the_host_s_unless_a_file_says_otherwise(tmp_path: Path) -> None:
    assert read_configuration([SHIPPED]).memory.page_locked_fraction == 0.5
    for written_as, fraction in (("0", 0.0), ("0.25", 0.25), ("1", 1.0)):
        file = written(tmp_path, f"[memory]\npage_locked_fraction = {written_as}\n")
        configuration = read_configuration([SHIPPED, file])
        assert not configuration.problems and configuration.memory.page_locked_fraction == fraction


def test_every_strategy_of_the_split_nodes_can_be_the_first(tmp_path: Path) -> None:
    for strategy in built_in_strategies():
        configuration = read_configuration([written(tmp_path, f"[planner]\nstrategy = '{strategy.name}'\n")])
        assert configuration.planner.strategy == strategy.name and not configuration.problems


def test_the_shipped_file_has_every_setting_at_its_default() -> None:
    """So that the file shows all that can be set."""
    configuration = read_configuration([SHIPPED])
    assert {name: getattr(configuration, name) for name in SECTIONS} == {name: SECTIONS[name]() for name in SECTIONS}
    assert set(configuration.core) == {(name, key) for name, model in SECTIONS.items() for key in model.model_fields}


def test_a_file_that_an_editor_on_windows_wrote_is_read(tmp_path: Path) -> None:
    file = tmp_path / "plugins.toml"
    file.write_text("[integrations]\r\na = false\r\n", encoding="utf-8-sig")
    configuration = read_configuration([file])
    assert not configuration.problems and not configuration.is_enabled("a")


def test_a_file_that_is_no_toml_costs_that_file_alone(tmp_path: Path) -> None:
    configuration = read_configuration([SHIPPED, written(tmp_path, "[integrations\n"), tmp_path / "absent.toml"])
    assert len(configuration.problems) == 2
    assert configuration.is_enabled("comfy_core")


def test_a_name_that_is_a_switch_and_a_table_is_told_with_its_line(tmp_path: Path) -> None:
    file = written(tmp_path, "[integrations]\ngguf = false\n\n[integrations.gguf]\ncolour = 1\n")
    (problem,) = read_configuration([file]).problems
    assert problem.line == 4


def test_an_entry_for_a_plugin_that_nobody_has_is_told(tmp_path: Path) -> None:
    configuration = read_configuration([written(tmp_path, "[integrations]\ncomfy_cor = false\ndefault = true\n")])
    (problem,) = configuration.unknown_plugins(["comfy_core"])
    assert problem.line == 2 and "did you mean comfy_core" in problem.reason


def test_an_option_of_a_plugin_that_is_off_has_no_effect_and_that_is_told(tmp_path: Path) -> None:
    text = "[integrations.theirs]\nenabled = false\ncolour = 1\n\n[integrations.ours]\ncolour = 2\n"
    (problem,) = read_configuration([written(tmp_path, text)]).idle_options()
    assert (problem.line, problem.key) == (3, "integrations.theirs.colour") and "no effect" in problem.reason


def test_a_strategy_that_nobody_has_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    configuration = read_configuration([written(tmp_path, "[planner]\nstrategy = 'contigous'\n")])
    (problem,) = configuration.unknown_strategy(["interleave", "contiguous"])
    assert (problem.line, problem.key) == (2, "planner.strategy")
    assert "interleave, contiguous (did you mean contiguous?)" in problem.reason
    assert not list(configuration.unknown_strategy(["contigous"]))


KEYS = st.sampled_from(
    [
        "integrations",
        "planner",
        "memory",
        "logging",
        "page_locked_fraction",
        "default",
        "strategy",
        "level",
        "x",
        "enabled",
    ]
)
VALUES = st.sampled_from(["true", "false", "1", "'contiguous'", "'debug'", "[1]", "{a = 1}", "=", '"', "nan"])
LINES = st.one_of(
    st.builds("[{}]".format, KEYS), st.builds("[{}.{}]".format, KEYS, KEYS), st.builds("{} = {}".format, KEYS, VALUES)
)


@given(lines=st.lists(LINES, max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_file_keeps_the_framework_from_starting(tmp_path: Path, lines: list[str]) -> None:
    configuration = read_configuration([SHIPPED, written(tmp_path, "\n".join(lines))])
    for name, section in SECTIONS.items():
        assert isinstance(getattr(configuration, name), section)
    assert configuration.is_enabled("comfy_core") in (True, False)
    list(configuration.unknown_plugins(["comfy_core"]))


def test_the_default_switch_is_about_other_people_s_plugins(tmp_path: Path) -> None:
    cautious = read_configuration([SHIPPED, written(tmp_path, "[integrations]\ndefault = false\n")], ["ours"])
    assert cautious.is_enabled("ours") and not cautious.is_enabled("theirs")
    off = read_configuration([written(tmp_path, "[integrations]\nours = false\n")], ["ours"])
    assert not off.is_enabled("ours")
