"""Tabs: each open page has pictures and a key of its own, which go when it is closed or gives no sign of life."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from pathlib import Path

from unseg.data.name_matching import unicode_form
from unseg.data.samples import stem_of_image
from unseg.storage.key_file import key_hash, new_key
from unseg.web.darkroom import Darkroom
from unseg.web.refusals import Refusal
from unseg.web.result_files import Results
from unseg.web.uploaded_picture import Picture
from unseg.web.uploads import TAB_BYTES, TAB_PICTURES, free_name

MOST_TABS = 16
# Seconds without a sign of life. Browsers let the timers of a hidden tab run once a minute.
SILENCE = 150.0
BEAT = 20.0  # seconds between signs of life


class Tab:
    """One open page: its folder, its key, its pictures, and what was made of them."""

    def __init__(self, folder: Path, key: bytes, darkroom: Darkroom) -> None:
        self.folder, self.key, self.darkroom = folder, key, darkroom
        self.originals, self.incoming = folder / "originals", folder / "incoming"
        self.pictures: dict[int, Picture] = {}
        self.results = Results(folder, key)
        self.seen = time.monotonic()
        self._numbers = 0
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Returns what the tab is called in addresses."""
        return self.folder.name

    def room(self) -> int:
        """Returns how many bytes its pictures may still take; Refusal where they are too many."""
        if len(self.pictures) >= TAB_PICTURES:
            raise Refusal(413, f"a tab holds at most {TAB_PICTURES:,} pictures; use `unseg protect` for more")
        return TAB_BYTES - sum(picture.size for picture in list(self.pictures.values()))

    def new_file(self) -> Path:
        """Returns a path for what comes in."""
        self.incoming.mkdir(exist_ok=True)
        return self.incoming / secrets.token_hex(8)

    def add(self, name: str, path: Path) -> Picture:
        """Takes a file that came in as a picture; ImageError, which names it, where it is none that can be protected.

        A name whose mask would have the name of another picture's gets a number.
        """
        size = path.stat().st_size
        if size > self.room():
            raise Refusal(413, f"{name}: the pictures of this tab take too much room; remove some")
        image = self.darkroom.read(path, name)
        height, width, _ = image.samples.shape
        with self._lock:
            taken = {_mask_key(picture.name) for picture in self.pictures.values()}
            own_name = free_name(name, _mask_key, taken)
            target = self.originals / own_name
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
            except OSError as error:
                raise Refusal(422, f"{name}: cannot be kept under this name ({error.strerror}); rename it") from error
            renamed = None if own_name == name else f"called {own_name} here, since another picture has its name"
            self._numbers += 1
            note = "; ".join(filter(None, (image.note, renamed))) or None
            came_as = None if renamed is None else name
            picture = Picture(self._numbers, own_name, target, height, width, note, size, dropped_as=came_as)
            self.pictures[picture.number] = picture
        self.darkroom.keep(target, image)
        return picture

    def picture(self, number: int) -> Picture:
        """Returns a picture; Refusal where it is not there."""
        found = self.pictures.get(number)
        if found is None:
            raise Refusal(404, "this picture is gone; reload the page")
        return found

    def remove(self, number: int) -> None:
        """Forgets a picture and removes its file."""
        picture = self.picture(number)
        with self._lock:
            del self.pictures[number]
        self.darkroom.forget(picture.path)
        picture.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Removes everything of the tab."""
        self.results.stop()
        for picture in list(self.pictures.values()):
            self.darkroom.forget(picture.path)
        shutil.rmtree(self.folder, ignore_errors=True)

    def as_json(self) -> dict[str, object]:
        """Returns what the page is told when it opens."""
        return {"tab": self.name, "key_hash": key_hash(self.key), "beat": BEAT}


def _mask_key(name: str) -> str:
    """Returns what two pictures may not have in common: on some systems, their masks would be one file."""
    return unicode_form(stem_of_image(name)).casefold()


class Tabs:
    """The open pages. folder: below which each has one of its own. key: of all; None: each tab draws one."""

    def __init__(self, folder: Path, darkroom: Darkroom, key: bytes | None = None) -> None:
        self.folder, self.darkroom, self.key = folder, darkroom, key
        self._tabs: dict[str, Tab] = {}

    def open(self) -> Tab:
        """Returns a new tab; Refusal where there are too many."""
        if len(self._tabs) >= MOST_TABS:
            raise Refusal(429, f"{MOST_TABS} tabs are open, and no more are served; close some")
        folder = self.folder / secrets.token_hex(8)
        folder.mkdir(mode=0o700)
        tab = Tab(folder, self.key or new_key(), self.darkroom)
        self._tabs[tab.name] = tab
        return tab

    def get(self, name: str) -> Tab:
        """Returns an open tab, for which this is a sign of life; Refusal where it is closed."""
        tab = self._tabs.get(name)
        if tab is None:
            raise Refusal(404, "this tab's pictures are gone, since it gave no sign of life; reload the page")
        tab.seen = time.monotonic()
        return tab

    def close(self, name: str) -> None:
        """Closes a tab and removes what was in it; one that is closed already stays so."""
        tab = self._tabs.pop(name, None)
        if tab is not None:
            tab.close()

    def close_silent(self, silence: float = SILENCE) -> None:
        """Closes the tabs that gave no sign of life for so many seconds."""
        now = time.monotonic()
        for name in [name for name, tab in list(self._tabs.items()) if now - tab.seen > silence]:
            self.close(name)

    def close_all(self) -> None:
        """Closes every tab."""
        for name in list(self._tabs):
            self.close(name)
