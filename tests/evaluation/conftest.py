"""What the tests of comparisons share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.scenes import write_splits


@pytest.fixture()
def data(tmp_path: Path) -> Path:
    """images/ and labels/ with train and test each."""
    return write_splits(tmp_path / "data")
