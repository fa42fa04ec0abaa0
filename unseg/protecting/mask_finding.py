"""A run without masks: finds the foreground of each image, keeps it as a mask beside the output, and uses it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from unseg.compute.in_flight import PIXELS
from unseg.compute.progress import Progress, track
from unseg.compute.threads import cores, in_order
from unseg.data.samples import SampleFile, kept_samples
from unseg.errors import UserError
from unseg.protecting.auto_masks import Foreground, propose
from unseg.protecting.foreground_models import DEFAULT_MODEL, ForegroundModel
from unseg.protecting.inputs import Inputs
from unseg.protecting.kept_masks import (
    FoundMask,
    KeptMasks,
    RecordWriter,
    cannot_be_written,
    masks_beside,
    read_record,
)
from unseg.protecting.manifest import Key, relative
from unseg.protecting.outputs import plan_masks
from unseg.protecting.request import Request
from unseg.protecting.settings import ProtectSettings
from unseg.storage.files import link_on_the_way, printable, remove_temporaries, sha256_of, write_bytes
from unseg.storage.image_decoding import Image, read_image
from unseg.storage.image_encoding import encode_png
from unseg.storage.image_headers import pixel_count
from unseg.storage.image_limits import ImageError

PNG_LEVEL = 6


def with_masks(request: Request, inputs: Inputs, pool: Executor, progress: Progress, *, writes: bool) -> Inputs:
    """Returns the inputs with the masks that are kept for them; those that are missing are found first.

    Inputs of a run that finds no masks stay as they are. writes: whether anything may be written; if not, masks that
    are missing stay so. The caller holds the lock of the output folder where anything is written.
    """
    if not request.finds_masks:
        return inputs
    folder = masks_beside(request.out)
    if writes and folder.is_dir():
        _remove_temporaries(folder)
    known = read_record(folder)
    samples = {(sample.name, relative(sample.root, folder)): sample for sample in inputs.found.samples}
    names = plan_masks(samples, folder, {key: mask.mask for key, mask in known.items()})
    by_name = sorted(samples, key=lambda key: (key[0], relative(samples[key].root, request.out)))
    wanted = [_Wanted(samples[key], key, folder, names[key], known.get(key)) for key in by_name[: request.limit]]
    good = in_order(pool, lambda one: one.is_there(request.settings.auto_model), wanted)
    missing = [one for one, is_there in zip(wanted, good, strict=True) if not is_there]
    before = next((mask.model for mask in reversed(known.values())), DEFAULT_MODEL)
    model = ForegroundModel(request.settings.auto_model or before, request.settings.workers or cores(), progress)
    unmade: dict[str, str] = {}
    if missing and writes:
        results = _found(missing, model, request.settings, pool=pool, progress=progress)
        with RecordWriter(folder, known.values()) as record, closing(results):
            for one, found in results:
                if isinstance(found, str):
                    unmade[one.sample.name] = found
                    continue
                mask, data = found
                if not one.is_a_persons:  # who may have made it meanwhile
                    _keep(one, mask, data, record)
                    known[mask.key] = mask
    _tell(folder, len(wanted) - len(missing), len(missing) - len(unmade), writes, progress)
    unclear = {one.name: why for one in wanted if (why := one.unclear(known.get(one.key))) is not None}
    kept = KeptMasks(folder, unclear, unmade, is_foreseen=not writes)
    masked = {one.key: one.with_mask() for one in wanted}
    found_samples = kept_samples(masked.get(key, sample) for key, sample in samples.items())
    return replace(inputs, found=replace(inputs.found, samples=found_samples), kept=kept)


@dataclass(frozen=True)
class _Wanted:
    """An input that needs a mask. name: of the mask in its folder. known: what an earlier run found."""

    sample: SampleFile
    key: Key
    folder: Path
    name: str
    known: FoundMask | None

    @property
    def path(self) -> Path:
        return self.folder / self.name

    @property
    def is_a_persons(self) -> bool:
        """Returns whether there is a mask that was not found, or was changed since."""
        if not os.path.lexists(self.path):
            return False
        return self.known is None or sha256_of(self.path) != self.known.mask_sha256

    def is_there(self, model: str | None) -> bool:
        """Returns whether the mask is there and still good; one that a person made or changed always is.

        model: the network that is asked for; None: whichever found the masks that are there.
        """
        if self.is_a_persons or self.known is None or not os.path.lexists(self.path):
            return self.is_a_persons
        return model in (None, self.known.model) and sha256_of(self.sample.image) == self.known.input_sha256

    def unclear(self, known: FoundMask | None) -> str | None:
        """Returns why the input has no clear foreground; None where it has one, or a person changed its mask."""
        if known is None or known.unclear is None or sha256_of(self.path) != known.mask_sha256:
            return None
        return known.unclear

    def with_mask(self) -> SampleFile:
        if not os.path.lexists(self.path):
            return self.sample
        return replace(self.sample, mask_file=self.path, mask_name=self.name)


def proposed_mask(path: Path, model: ForegroundModel, settings: ProtectSettings) -> tuple[Image, Foreground, bytes]:
    """Returns an image with its foreground, and that as a PNG whose values are a soft mask; ImageError, MemoryError."""
    with PIXELS.room_for(pixel_count(path)):
        image = read_image(path, settings.max_pixels, upright=not settings.keep_frame)
        foreground = propose(image.pixels, model)
        return image, foreground, encode_png(foreground.levels(*image.samples.shape[:2]), PNG_LEVEL)


def _found(
    wanted: list[_Wanted], model: ForegroundModel, settings: ProtectSettings, *, pool: Executor, progress: Progress
) -> Generator[tuple[_Wanted, tuple[FoundMask, bytes] | str], None, None]:
    """Yields each input with its mask as a PNG, or with the reason why there is none."""

    def find(one: _Wanted) -> tuple[FoundMask, bytes] | str:
        try:
            image, foreground, data = proposed_mask(one.sample.image, model, settings)
        except ImageError as error:
            return error.reason
        except MemoryError:
            return "not enough memory to find its mask"
        mask = FoundMask(
            *one.key,
            input_sha256=image.sha256,
            mask=one.name,
            mask_sha256=hashlib.sha256(data).hexdigest(),
            model=model.name,
            objects=len(foreground.proposals),
            unclear=foreground.unclear,
        )
        return mask, data

    results = in_order(pool, find, wanted)  # which calls off what has not begun, should this end early
    yield from zip(wanted, track(progress, results, len(wanted), "masks"), strict=True)


def _remove_temporaries(folder: Path) -> None:
    """Removes what a killed run left half written among the masks."""
    try:
        remove_temporaries(folder)
    except OSError as error:
        raise cannot_be_written(folder, error) from error


def _keep(one: _Wanted, mask: FoundMask, data: bytes, record: RecordWriter) -> None:
    """Writes a mask, in the place of one that was found before.

    Its line is there first: a mask without one, or with another's, would count as a person's.
    """
    link = link_on_the_way(one.folder, str(PurePosixPath(one.name).parent))
    if link is not None:
        raise UserError(f"{one.folder / link}: is a link, which is not followed; remove it")
    try:
        one.path.unlink(missing_ok=True)
        record.add(mask)
        write_bytes(one.path, data)
    except OSError as error:
        raise cannot_be_written(one.path, error) from error


def _tell(folder: Path, there: int, found: int, writes: bool, progress: Progress) -> None:
    place = printable(str(folder))
    if not writes:
        progress.say(f"masks: {there} are kept in {place}; a run would look for {found} more first")
    elif found:
        progress.say(
            f"masks: {found} found, {there} of before, all in {place}: look at them, and change what is wrong (white"
            " and light grey are object, black is not); the same command then uses them as they are"
        )
    else:
        progress.say(f"masks: those in {place}")
