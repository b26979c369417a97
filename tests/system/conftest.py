"""Where a loop that several tests share keeps its data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from open_folder import open_folder


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """For one module's loop."""
    with open_folder(tmp_path_factory.mktemp("shared")) as found:
        yield found
