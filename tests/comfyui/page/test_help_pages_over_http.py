"""ComfyUI's page finds our help: it asks where the node's module and id tell it to."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest

from multigpu.multigpu_core.provisioning.server import ComfyUIServer


@pytest.fixture(scope="module")
def object_info(server: ComfyUIServer) -> dict[str, Any]:
    return server.client.object_info()


@pytest.mark.parametrize("node_id", ["UNETLoaderDisTorch2MultiGPU", "DeviceSelectorMultiGPU", "UnetLoaderGGUFMultiGPU"])
def test_the_help_of_a_node_is_served_where_the_front_end_asks(
    server: ComfyUIServer, object_info: dict[str, Any], repository: Path, node_id: str
) -> None:
    kind, pack, *_ = object_info[node_id]["python_module"].split(".")
    assert kind == "custom_nodes"
    address = f"http://{server.client.address}/extensions/{quote(pack.split('@')[0])}/docs/{node_id}.md"
    with urlopen(address) as answer:
        assert "html" not in answer.headers["Content-Type"], "the front end takes that for an error page"
        assert answer.read().decode() == (repository / "web" / "docs" / f"{node_id}.md").read_text(encoding="utf-8")
