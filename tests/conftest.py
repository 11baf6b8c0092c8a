"""For all tests: simulated accelerators as a fixture, and a report that names the versions that were run."""

from __future__ import annotations

import os
import platform
import runpy
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import hypothesis
import pytest

from multigpu.multigpu_core.provisioning.release import ProvisioningError, comfyui_folder

# What a developer's machine is in a cluster of its own is no matter to the tests.
os.environ["MULTIGPU_CLUSTER"] = str(Path(tempfile.gettempdir()) / "multigpu-in-no-cluster")

pytest_plugins = ["multigpu.multigpu_core.conformance.fixtures"]

# Without a deadline: on a busy machine anything may take a while, and that says nothing about the code.
hypothesis.settings.register_profile("default", deadline=None, max_examples=50)
hypothesis.settings.register_profile("long", deadline=None, max_examples=2000)
hypothesis.settings.load_profile("default")


COSTLY = (
    "repository/test_benchmarks.py", "split/test_inventory_of_real_architectures.py", "cli/test_command_line_page.py",
    "cli/test_verify.py", "cli/test_demo.py",
    "split/test_relayed_pictures.py", "repository/test_examples.py", "auxiliary/test_patches_elsewhere.py",
    "split/test_out_of_memory.py", "split/test_neighbours.py", "auxiliary/test_controlnets_elsewhere.py",
    "split/test_split_pictures.py", "packaging/test_import_name.py", "packaging/test_third_party_plugin.py",
    "repository/test_plugins_in_a_server.py", "host/test_one_owner.py", "provisioning/test_simulated_host.py",
    "time/test_steps_in_virtual_time.py", "relay/test_relay.py", "streaming/test_adversarial_streaming.py",
)  # fmt: skip
"""Files that take longest, the longest first; a file that is not here is no less tested, only later."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: else one worker runs the last of them while the others have ended."""
    rank = {name: place for place, name in enumerate(COSTLY)}
    items.sort(key=lambda item: rank.get("/".join(item.path.parts[-2:]), len(COSTLY)))


def _tested_versions() -> str:
    try:
        torch_version = version("torch")
    except PackageNotFoundError:
        torch_version = "not installed"
    return f"Python {platform.python_version()}, torch {torch_version}, ComfyUI {_comfyui_version()}"


def _comfyui_version() -> str:
    try:
        folder = comfyui_folder()
    except ProvisioningError as error:
        return f"not at hand ({error.source})"
    return f"{runpy.run_path(str(folder / 'comfyui_version.py'))['__version__']} ({folder})"


def pytest_report_header() -> str:
    return f"versions: {_tested_versions()}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"versions: {_tested_versions()}")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout under test."""
    return Path(__file__).resolve().parent.parent
