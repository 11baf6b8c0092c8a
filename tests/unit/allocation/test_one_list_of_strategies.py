"""The strategies are listed once; node, command line, settings and editor read that list."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

from typer.testing import CliRunner

from multigpu.multigpu_core.cli.app import app
from multigpu.multigpu_core.contract.strategy import Strategy
from multigpu.multigpu_core.settings.core_settings import PlannerSettings

ROOT = Path(__file__).parents[3]
NAMES = [strategy.value for strategy in Strategy]


def test_settings_and_command_line_offer_every_strategy() -> None:
    assert list(get_args(get_type_hints(PlannerSettings)["strategy"])) == NAMES
    for command in ("plan", "verify"):
        shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
        assert Strategy.all_names() in shown


def test_the_list_is_read_without_torch_and_no_other_is_kept_in_the_page_or_the_code() -> None:
    code = "import sys, multigpu.multigpu_core.contract.strategy as s; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    files = [*(ROOT / "web").glob("*.js"), *(ROOT / "multigpu_core").rglob("*.py")]
    texts = {file.name: file.read_text(encoding="utf-8") for file in files}
    lists = [name for name, text in texts.items() if all(f'"{each}"' in text for each in NAMES)]
    assert lists == ["strategy.py"]


def test_each_strategy_says_what_it_does() -> None:
    assert all(strategy.summary and strategy.summary in Strategy.all_summaries() for strategy in Strategy)
    assert Strategy("relay") is Strategy.RELAY and Strategy.RELAY == "relay"
