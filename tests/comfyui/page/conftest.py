"""What the tests of ComfyUI's page share: the page, opened once for each file."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..support.page import ComfyPage, chromium


@pytest.fixture(scope="module")
def opened(request: pytest.FixtureRequest) -> Iterator[ComfyPage]:
    with chromium() as browser:  # where there is none, no server is started either
        yield ComfyPage(browser, request.getfixturevalue("server"))
