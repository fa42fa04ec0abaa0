"""Masks that a run found itself and keeps beside its output: a folder that people look into and change, and a record.

`OUT.masks/unseg-auto-masks.jsonl` has a line for each mask that was found. It tells a mask that a person changed, which
stays, from one of an image that changed since, which is found anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from unseg.data.object_rule import ObjectRule
from unseg.data.samples import SampleFile
from unseg.errors import UserError
from unseg.protecting.manifest import Key, relative
from unseg.protecting.mask_placing import Placing
from unseg.protecting.objects import FoundObject, MaskFiles, MaskFolder, Refused
from unseg.storage.files import open_for_appending, open_for_reading, printable, stays_inside, write_blocks
from unseg.storage.image_decoding import Frame

SUFFIX = ".masks"
RECORD = "unseg-auto-masks.jsonl"
MAX_LINE = 1 << 16  # bytes
LATER = "its mask is found when the run begins"


@dataclass(frozen=True)
class FoundMask:
    """A line of the record: the mask that was found for an input.

    input: name relative to `input_root`, which is relative to the folder of masks. mask: name in that folder. objects:
    how many were told apart. unclear: why there are none.
    """

    input: str
    input_root: str
    input_sha256: str
    mask: str
    mask_sha256: str
    model: str
    objects: int
    unclear: str | None = None

    @property
    def key(self) -> Key:
        """Returns what tells its input from all others."""
        return self.input, self.input_root


@dataclass(frozen=True)
class KeptMasks:
    """The folder of a run's masks.

    unclear: name of a mask → why its image has no clear foreground. unmade: input → why it has no mask. is_foreseen:
    masks may be missing, since nothing is written.
    """

    folder: Path
    unclear: Mapping[str, str] = field(default_factory=dict)
    unmade: Mapping[str, str] = field(default_factory=dict)
    is_foreseen: bool = False


class AutoMasks(MaskFiles):
    """The object is what a mask shows that was found by a network and is kept beside the output."""

    def __init__(self, kept: KeptMasks, out: Path, paths: Sequence[str], max_pixels: int) -> None:
        folder = MaskFolder(relative(kept.folder, out), "soft", paths, Placing("upright"))
        super().__init__(folder, ObjectRule(), max_pixels)
        self.kept = kept

    def find(self, sample: SampleFile, frame: Frame) -> FoundObject:
        if sample.mask is None and self.kept.is_foreseen:
            return FoundObject(np.ones((frame.height, frame.width), bool), notes=(LATER,))
        if sample.mask is None:
            raise Refused("failed", self.kept.unmade.get(sample.name, "no mask was found for it"))
        try:
            return super().find(sample, frame)
        except Refused as refused:
            unclear = self.kept.unclear.get(sample.mask_name or "")
            if refused.status != "unmasked" or unclear is None:
                raise
            remedy = f"paint its object white in {printable(str(sample.mask))}"
            raise Refused("unmasked", f"no clear foreground ({unclear}): {remedy}", refused.facts) from None

    def lacks(self, sample: SampleFile) -> bool:
        return sample.mask_name in self.kept.unclear


def masks_beside(out: Path) -> Path:
    """Returns where the masks of an output folder are kept: beside it, not in it."""
    folder = Path(os.path.abspath(out))
    return folder.with_name(folder.name + SUFFIX)


# --- the record


def read_record(folder: Path) -> dict[Key, FoundMask]:
    """Returns the last line of each input; none where nothing was found yet.

    A last line that was cut short is left out. Raises UserError where the file is no such record.
    """
    path, number, found = folder / RECORD, 0, dict[Key, FoundMask]()
    try:
        with open_for_reading(path) as file:
            while line := file.readline(MAX_LINE):
                number += 1
                if not line.endswith(b"\n") and len(line) < MAX_LINE:
                    break
                mask = _found_mask(json.loads(line))
                found[mask.key] = mask
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}; allow reading it") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path}: is no record of masks that were found (line {number}: {str(error)[:100]}); remove it, and the"
            " masks beside it count as your own"
        ) from error
    return found


def _found_mask(values: Any) -> FoundMask:
    if not isinstance(values, dict):
        raise ValueError("no object")
    given = {item.name: values[item.name] for item in fields(FoundMask) if values.get(item.name) is not None}
    mask = FoundMask(**given)
    texts = {name: value for name, value in given.items() if name != "objects"}
    if not all(isinstance(text, str) for text in texts.values()) or not isinstance(mask.objects, int):
        raise ValueError("a value of another type")
    if not stays_inside(mask.mask):
        raise ValueError(f"mask: {mask.mask[:60]!r}")
    return mask


class RecordWriter:
    """A context that keeps the record: what was known at first, and each mask that is found as soon as it is there.

    Errors are a UserError; what was written before one stays readable. Where an error comes before the first mask, such
    as that there is no network, nothing is left behind.
    """

    def __init__(self, folder: Path, known: Iterable[FoundMask]) -> None:
        self._path, self._known = folder / RECORD, list(known)
        self._is_empty = not self._known

    def add(self, mask: FoundMask) -> None:
        """Appends a line."""
        self._is_empty = False
        try:
            self._file.write(_line(mask))
            self._file.flush()
        except OSError as error:
            raise cannot_be_written(self._path, error) from error

    def __enter__(self) -> RecordWriter:
        self._made_folder = not os.path.lexists(self._path.parent)
        try:
            write_blocks(self._path, map(_line, self._known))
            self._file: BinaryIO = open_for_appending(self._path)
        except OSError as error:
            raise cannot_be_written(self._path, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # what is left in its buffer after a full disk
            self._file.close()
        if kind is not None and self._is_empty:
            with suppress(OSError):
                self._path.unlink()
                if self._made_folder:  # another one is the user's
                    self._path.parent.rmdir()


def cannot_be_written(path: Path, error: OSError) -> UserError:
    """Returns the error of a place that takes no masks, for the user."""
    return UserError(
        f"{path}: cannot be written: {error.strerror or error}; masks that were found are kept: make room or allow"
        " writing, and run the same command again to go on"
    )


def _line(mask: FoundMask) -> bytes:
    return (json.dumps({name: value for name, value in asdict(mask).items() if value is not None}) + "\n").encode()
