"""Folders that are watched in a thread, as a test goes on to change them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import unseg
from tests.support.told_progress import Told
from unseg.errors import UserError
from unseg.protecting import watching

PATIENCE = 60.0  # seconds, of which an idle machine takes one


class Stop(Told):
    """A progress that interrupts a watch once it is asked to: sentences come between two looks, too."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = threading.Condition()
        self.end: BaseException | None = None

    def say(self, text: str) -> None:
        with self.heard:
            super().say(text)
            self.heard.notify_all()

    def wait_for(self, text: str, times: int = 1) -> None:
        def told() -> bool:
            return sum(text in sentence for sentence in self.sentences) >= times or self.end is not None

        with self.heard:
            assert self.heard.wait_for(told, PATIENCE), self.sentences
        assert sum(text in sentence for sentence in self.sentences) >= times, (self.sentences, self.end)


@contextmanager
def watched(photos: Path, out: Path, monkeypatch: pytest.MonkeyPatch, **options: object) -> Iterator[Stop]:
    """Watches in a thread; on leaving, interrupts it between two looks and waits for its end."""
    progress, stop = Stop(), threading.Event()

    def pause(seconds: float) -> None:
        if stop.wait(min(seconds, 0.02)):
            raise KeyboardInterrupt

    monkeypatch.setattr(watching.time, "sleep", pause)

    def run() -> None:
        try:
            unseg.protect_folder(photos, out, watch=True, progress=progress, **options)
        except (KeyboardInterrupt, UserError) as end:
            with progress.heard:
                progress.end = end
                progress.heard.notify_all()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield progress
    finally:
        stop.set()
        thread.join(PATIENCE)
        assert not thread.is_alive()
