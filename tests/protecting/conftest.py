"""What the tests of protecting share."""

from __future__ import annotations

import pytest

from tests.support.actors_here import ActorsHere, use


@pytest.fixture
def actors(monkeypatch: pytest.MonkeyPatch) -> ActorsHere:
    """Actors of an engine in this process."""
    here = ActorsHere()
    use(here, monkeypatch)
    return here
