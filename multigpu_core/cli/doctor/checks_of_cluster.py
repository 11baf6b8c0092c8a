"""Checks of `multigpu doctor` that look at this machine's place in a cluster; none where it is in no cluster."""

from __future__ import annotations

from collections.abc import Iterator

from . import tested_versions as tested
from .finding import Check, Finding, note, problem, warning
from .snapshot import ClusterHere, Snapshot

LEAST_SHARED_BYTES = 1 << 30


def _of_members(check: Check) -> Check:
    def checked(here: Snapshot) -> Iterator[Finding]:
        if here.cluster is not None:
            yield from check(here)

    return checked


def _cluster(here: Snapshot) -> ClusterHere:
    assert here.cluster is not None, "asked of members only"
    return here.cluster


@_of_members
def ray(here: Snapshot) -> Iterator[Finding]:
    cluster = _cluster(here)
    if cluster.why_not:
        yield problem(f"{cluster.name} is in a cluster, which this Python cannot reach.", cluster.why_not)
    elif cluster.ray_version != tested.RAY:
        what = f"Ray {cluster.ray_version} is installed; the cluster was tested with {tested.RAY}."
        yield warning(what, f"All machines need the same Ray: pip install ray=={tested.RAY}")


@_of_members
def token(here: Snapshot) -> Iterator[Finding]:
    if not _cluster(here).token_is_private:
        todo = f"chmod 600 {_cluster(here).token_file}. Make a new token if somebody may have read it: delete the file."
        yield problem(
            "Other users of this machine can read the cluster's token, and so run code on its machines.", todo
        )


@_of_members
def supervisor(here: Snapshot) -> Iterator[Finding]:
    cluster = _cluster(here)
    if not cluster.is_running:
        again = "multigpu cluster start" if cluster.is_home else "multigpu cluster join"
        yield note(f"{cluster.name} is in a cluster that does not run here now.", f"Start it again: {again}")
        if cluster.port_in_use is not None:
            todo = "Another program uses it: end that, or choose other ports with --port."
            yield warning(f"Port {cluster.port_in_use}, which the cluster uses here, is not free.", todo)


@_of_members
def shared_memory(here: Snapshot) -> Iterator[Finding]:
    size = _cluster(here).shared_bytes
    if size is not None and size < LEAST_SHARED_BYTES:
        what = f"/dev/shm has {size / (1 << 20):.0f} MB: what is sent to other machines is kept there."
        yield warning(what, "Give it 3 GB; in Docker: --shm-size=3g.")


CHECKS: tuple[Check, ...] = (ray, token, supervisor, shared_memory)
