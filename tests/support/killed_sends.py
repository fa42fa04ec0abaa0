"""Runs on stores that are killed after so many files were sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from unseg.protecting import stores
from unseg.storage.mirror import Mirror


class Killed(Exception):
    """Ends a run where a killed process would end."""


def killed_after(sends: int, run: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs something that sends its files one at a time, and kills it before one more is sent. It has to be killed."""
    send, left = Mirror.send, sends

    def dying(self: Mirror, path: Path, is_new: bool = False) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        send(self, path, is_new)

    with monkeypatch.context() as patch:
        patch.setattr(stores, "SENDERS", 1)
        patch.setattr(Mirror, "send", dying)
        with pytest.raises(Killed):
            run()
