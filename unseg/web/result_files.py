"""The files of a tab's pictures, made by the very run that `unseg protect` makes: one zip to publish, one to keep."""

from __future__ import annotations

import shutil
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from unseg.compute.progress import Tick
from unseg.data.samples import SampleFile, SampleList
from unseg.errors import UserError
from unseg.method.config import Budget, strength
from unseg.protecting.manifest import MANIFEST, Entry
from unseg.protecting.objects import WHOLE_IMAGE
from unseg.protecting.run import protect
from unseg.protecting.settings import DEFAULTS, ProtectSettings
from unseg.storage.files import blocks_of, files_under, open_for_reading, write_durably
from unseg.storage.image_limits import MAX_PIXELS
from unseg.storage.key_file import write_key
from unseg.web.darkroom import Form
from unseg.web.refusals import Refusal
from unseg.web.uploaded_picture import Picture

PUBLIC, PRIVATE = "protected.zip", "private.zip"
KEY, MASKS, PROTECTED = "protected.key", "masks", "protected"
READ_ME = """Keep these files to yourself: whoever has the key can take the noise off.

masks/         the objects of each picture, a number each
protected.key  the key of the noise

This command makes the same files again, byte for byte, from the folder or the files that you dropped:

    {command}

After unpacking protected.zip and this archive into one folder, this one compares them with your originals:

    unseg verify protected --originals ORIGINALS{masks}
{before}"""
RENAMED = """
Before either command, give these originals the names that they have here:

{names}
"""
UNMARKED = """
The first command takes every picture that is there. You said nothing of these, so keep them elsewhere:

{names}
"""


@dataclass(frozen=True)
class Order:
    """What is to be made: of which pictures, how strong and in which format. unmarked: names of the other pictures."""

    pictures: Sequence[Picture]
    word: str
    form: Form
    unmarked: Sequence[str] = ()

    def __post_init__(self) -> None:
        strength(self.word, "strength")
        if self.form not in get_args(Form):
            raise UserError(f"format {self.form}: choose from {', '.join(get_args(Form))}")
        if not self.pictures:
            raise Refusal(409, "nothing says what the object of any picture is; mark one first")

    @property
    def has_masks(self) -> bool:
        """Returns whether a mask says what the object of any picture is."""
        return any(not picture.whole for picture in self.pictures)

    @property
    def has_whole(self) -> bool:
        """Returns whether any picture's object is all of it."""
        return any(picture.whole for picture in self.pictures)

    def settings(self, max_pixels: int) -> ProtectSettings:
        """Returns the settings of the run."""
        return replace(
            DEFAULTS,
            budget=Budget(strength(self.word)),
            format=self.form,
            mask_type="index" if self.has_masks else "auto",
            auto_objects=not self.has_masks,
            unmasked="whole" if self.has_masks and self.has_whole else "skip",
            max_megapixels=max_pixels / 1e6,
        )

    def read_me(self) -> str:
        """Returns what is said beside the key: which commands make and check the same files, and what they need."""
        renamed = [f"    {one.dropped_as} -> {one.name}" for one in self.pictures if one.dropped_as is not None]
        before = RENAMED.format(names="\n".join(renamed)) if renamed else ""
        if self.has_whole and self.unmarked:
            before += UNMARKED.format(names="\n".join(f"    {name}" for name in self.unmarked))
        masks = f" --masks {MASKS}" if self.has_masks else ""
        return READ_ME.format(command=self.command(), masks=masks, before=before)

    def command(self) -> str:
        """Returns the command that makes the same files."""
        words = ["unseg protect ORIGINALS"]
        words += [f"--masks {MASKS} --mask-type index --objects all"] if self.has_masks else ["--whole-image"]
        words += ["--unmasked whole"] if self.has_masks and self.has_whole else []
        words += [] if self.word == "standard" else [f"--strength {self.word}"]
        words += [] if self.form == "png" else [f"--format {self.form}"]
        return " ".join([*words, f"--key {KEY}", "--out protected-again"])


@dataclass
class Making:
    """How far the files are. state: running, done or failed. error: one line. entries: the manifest's lines."""

    order: Order
    state: str = "running"
    what: str = ""
    done: int = 0
    total: int = 0
    error: str | None = None
    entries: tuple[Entry, ...] = ()
    started: float = field(default_factory=time.monotonic)
    stopped: bool = False

    def say(self, text: str) -> None:
        """Drops what the command prints."""

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Tick]:
        """Counts the pictures that are done; UserError once the tab is closed."""
        self.what, self.done, self.total, self.started = what, 0, total, time.monotonic()

        def tick() -> None:
            self.done += 1
            if self.stopped:
                raise UserError("the tab was closed")

        yield tick

    def as_json(self) -> dict[str, Any]:
        """Returns what the page is told. seconds_left: an estimate from the pictures that are done."""
        each = (time.monotonic() - self.started) / self.done if self.done else None
        others = [entry for entry in self.entries if entry.status != "protected"]
        whole = sum(entry.object == WHOLE_IMAGE for entry in self.entries if entry.status == "protected")
        protected = len(self.entries) - len(others) - whole
        return {
            "state": self.state,
            "done": self.done,
            "total": self.total,
            "seconds_left": None if each is None else round(each * (self.total - self.done), 1),
            "error": self.error,
            "protected": protected,
            "whole": whole,
            "others": [{"name": entry.input, "status": entry.status, "reason": entry.reason} for entry in others],
            "command": self.order.command(),
        }


class Results:
    """The files that are made of a tab's pictures. folder: the tab's. key: of the noise."""

    def __init__(self, folder: Path, key: bytes) -> None:
        self.folder, self.key = folder, key
        self.making: Making | None = None
        self._lock = threading.Lock()

    def make(self, order: Order, max_pixels: int = MAX_PIXELS) -> Making:
        """Begins to make the files; Refusal where that is going on already."""
        with self._lock:
            if self.making is not None and self.making.state == "running":
                raise Refusal(409, "the files are being made already; wait until they are done")
            self.making = Making(order)
        threading.Thread(target=self._run, args=(self.making, max_pixels), name="unseg-web-files", daemon=True).start()
        return self.making

    def stop(self) -> None:
        """Tells what is being made to end with the next picture."""
        if self.making is not None:
            self.making.stopped = True

    def file(self, name: str) -> Path:
        """Returns a zip that is done; Refusal where there is none."""
        if self.making is None or self.making.state != "done":
            raise Refusal(409, "the files are not made yet; make them first")
        return self.folder / name

    def _run(self, making: Making, max_pixels: int) -> None:
        try:
            making.entries = self._make(making, max_pixels)
            making.state = "done"
        except UserError as error:
            making.state, making.error = "failed", str(error).replace(f"{self.folder}/", "")
        except (OSError, MemoryError) as error:
            reason = getattr(error, "strerror", None) or "not enough memory"
            making.state, making.error = "failed", f"the files cannot be made ({reason}); make room and try again"
        finally:
            if making.state == "running":  # a defect, whose traceback the terminal shows
                making.state, making.error = "failed", "the server failed; its terminal says why"

    def _make(self, making: Making, max_pixels: int) -> tuple[Entry, ...]:
        order, out, masks = making.order, self.folder / PROTECTED, self.folder / MASKS
        key = self.folder / KEY
        for folder in (out, masks):
            shutil.rmtree(folder, ignore_errors=True)
        key.unlink(missing_ok=True)
        masks.mkdir()
        samples = [_sample(picture, self.folder / "originals", masks) for picture in order.pictures]
        summary = protect(
            (),
            out,
            order.settings(max_pixels),
            masks=masks if order.has_masks else None,
            whole_image=not order.has_masks,
            samples=SampleList(sorted(samples)),
            key=self.key,
            progress=making,
        )
        write_key(key, self.key)
        pack(self.folder / PUBLIC, [(f"{PROTECTED}/{name}", path) for name, path in _below(out)])
        read_me = self.folder / "READ-ME.txt"
        read_me.write_text(order.read_me(), encoding="utf-8")
        private = [(f"{MASKS}/{name}", path) for name, path in _below(masks)]
        pack(self.folder / PRIVATE, [(KEY, key), (read_me.name, read_me), *private])
        shutil.rmtree(out, ignore_errors=True)
        return tuple(summary.entries)


def _sample(picture: Picture, originals: Path, masks: Path) -> SampleFile:
    """Returns a picture as a run takes it; its mask is written first."""
    if picture.whole:
        return SampleFile(picture.name, picture.path, originals)
    name = f"{picture.stem}.png"
    write_durably(masks / name, picture.mask_file())
    return SampleFile(picture.name, picture.path, originals, masks / name, name)


def _below(folder: Path) -> list[tuple[str, Path]]:
    files = [(path.relative_to(folder).as_posix(), path) for path in files_under(folder)]
    return sorted(files, key=lambda item: (item[0] != MANIFEST, item[0]))


def pack(path: Path, files: Sequence[tuple[str, Path]]) -> None:
    """Writes files under their names into a zip, as they are: pictures do not get smaller. It holds no times."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, source in files:
            member = zipfile.ZipInfo(name)  # of 1980, so that the same files give the same bytes
            member.external_attr = 0o644 << 16
            with open_for_reading(source) as file, archive.open(member, "w", force_zip64=True) as target:
                for block in blocks_of(file):
                    target.write(block)
