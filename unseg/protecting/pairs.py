"""Images of a protected folder beside their originals, with what says where their noise is."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unseg.errors import UserError
from unseg.protecting.comparison import output_of
from unseg.protecting.manifest import Entry
from unseg.protecting.open_annotations import OpenAnnotations
from unseg.protecting.originals import Broken, Originals
from unseg.protecting.verification import finished_manifest, originals_of
from unseg.storage.image_decoding import Frame
from unseg.storage.sequences import in_order


@dataclass(frozen=True)
class ProtectedPair:
    """An image before and after: H×W×3 uint8 each. classes: of every pixel with noise, H×W int32; see
    `Originals.classes`."""

    name: str
    original: np.ndarray
    protected: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True)
class ProtectedFolder:
    """The protected images of a folder, by the lines of its manifest."""

    entries: tuple[Entry, ...]
    originals: Originals

    @classmethod
    def open(
        cls,
        folder: Path,
        pool: Executor,
        *,
        originals: Path | None = None,
        masks: Path | None = None,
        annotations: Path | OpenAnnotations | None = None,
    ) -> ProtectedFolder:
        """Opens an output folder of `unseg protect`; for the options see `unseg.protecting.verification.verify`.

        Raises UserError where it is none, or where nothing in it is protected.
        """
        manifest = finished_manifest(folder)
        lines = in_order(manifest.entries)
        entries = tuple(entry for entry in lines if entry.is_written and entry.status != "uncoded")
        if not entries:
            raise UserError(f"{folder}: no image in it is protected, as its manifest says; protect it first")
        kept = originals_of(manifest, folder, originals=originals, masks=masks, annotations=annotations)
        return cls(entries, kept.opened(entries, pool))

    def pair(self, entry: Entry) -> ProtectedPair:
        """Reads the image of a line and its original. Raises UserError where they cannot be compared any more."""
        try:
            image = self.originals.image(entry)
            protected, original = output_of(entry, self.originals).pixels, image.pixels
            if protected.shape != original.shape:
                raise Broken("its size is not its original's")
            height, width = original.shape[:2]
            classes = self.originals.classes(entry, Frame(height, width, image.orientation))
        except Broken as error:
            raise UserError(f"{self.originals.folder}: {entry.output}: {error}") from None
        return ProtectedPair(entry.input, original, protected, classes)
