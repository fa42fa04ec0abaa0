"""One image in memory to its unlearnable version, with any kind of noise: the face for Python programs."""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
from PIL import Image as Pillow

from unseg.compute.threads import alone, cores, worker_threads
from unseg.errors import UserError, WeakProtection
from unseg.method.coded_noise import apply_codes
from unseg.method.codes import OBJECT, code_map
from unseg.method.config import Budget
from unseg.method.patterns import ABSENCE, NO_CODE, ONE_CODE_BOOK, CodeBook
from unseg.method.visibility import check_can_measure
from unseg.protecting.coding import Coding, coding_of_mapping, read_coding
from unseg.protecting.effect import Effect, effect_of
from unseg.protecting.foreground_object import is_auto
from unseg.protecting.generators import AnyGenerator
from unseg.protecting.given_files import AnyGiven, GivenFile, is_file, mask_in_file, read_any
from unseg.protecting.given_images import AnyImage, AnyMask, AnyPoints, Boxes, GivenImage
from unseg.protecting.given_objects import given_object
from unseg.protecting.manifest import ALL_OVER
from unseg.protecting.named_settings import BUDGET, ImageOptions, named_settings
from unseg.protecting.network_protector import NetworkProtector
from unseg.protecting.option_kinds import of_kinds
from unseg.protecting.settings import COMPACT, ProtectSettings, Region
from unseg.storage.image_decoding import decode_samples
from unseg.storage.key_file import KEY_BYTES, new_key, read_key

if TYPE_CHECKING:
    from typing_extensions import Unpack

Codes = Mapping[int, int]
OF_FOLDERS = ("objects", "ignore_label", "background_label", "unmasked", "names", "keep_times", "workers")
SMALL_NETWORK_SIDE = 512  # up to here a run has one thread an image, which decides the last bits of its noise


@dataclass(frozen=True)
class ProtectedImage:
    """An image and what became of it.

    image: of the kind that was given. effect: its status, "protected", "weak" (its object changed too little) or
    "uncoded" (no pixel has a code), the reason where it is not "protected", and how far it is from the original. note:
    the conversion that the image took, in words, if any. all_over: whether the noise of an object is on all of the
    image, or on all but a hundredth, which cannot keep networks from learning the object.
    """

    image: Any
    effect: Effect
    note: str | None = None
    all_over: bool = False

    @property
    def is_protected(self) -> bool:
        """Returns whether the image is to be called protected."""
        return self.effect.status == "protected"


class Protector:
    """Makes images unlearnable, as `unseg protect` does it, and keeps what that takes between calls.

    generator: None for noise of codes, patterns by formula that need no network and leave the background as it is; else
    "compact", which ships with the package, a weight file, `module:name`, or a generator itself (see
    `unseg.protecting.generators.load_generator`). budget: the largest change of a value, in grey levels of 255; in its
    place epsilon and background_epsilon, or strength.

    Of codes, and of networks that take codes: key, 32 bytes or the file that holds them; without it one is drawn, which
    the attribute `key` holds: keep it where an image is to get the same noise again.

    Of codes only: codes, class → code, or a file that says so (a manifest, or JSON as `--codes` takes it), for calls
    with `classes`; objects of calls with a mask get the first code of the same book. Of networks only: region, see
    `unseg.protecting.network_protector.NetworkProtector`.

    options: the command's, by their names: noise, strength, epsilon, background_epsilon, survive_grey,
    mask_by_contrast, device, batch_size, precision, quality, auto_model; for images and masks in files also format,
    png_level, metadata, max_megapixels, mask_type, mask_frame and fit_masks.

    One protector may serve several threads, which get what one thread gets. It holds neither threads nor files between
    calls, so nothing is to be closed. Another process gets an equal one by pickle.
    """

    def __init__(
        self,
        generator: AnyGenerator | None = None,
        budget: Budget | None = None,
        region: Region = "mask",
        *,
        key: bytes | str | Path | None = None,
        codes: Codes | Coding | str | Path | None = None,
        **options: Unpack[ImageOptions],
    ) -> None:
        self.settings = _settings(generator, budget, options)
        self.budget, self.region = self.settings.budget, region
        self._network = cast(NetworkProtector | None, None)
        self._key: bytes | None = None
        self.codes: Codes | None = None
        self._coding: Coding | None = None
        if generator is None and self.settings.kind == "codes":
            if region != "mask":
                raise UserError(f"region: {region!r} follows a network's prompt; leave it out, or give a generator")
            self._key, self._coding = _key_of(key), _coding_of(codes)
            self.codes = None if self._coding is None else self._coding.codes
        else:
            self._take_network(self.settings.network if generator is None else generator, key, codes)
        self._made_of = partial(Protector, generator, self.budget, region, codes=self._coding or self.codes)
        self._options = {name: value for name, value in options.items() if name not in BUDGET}

    @property
    def key(self) -> bytes | None:
        """Returns the key of the codes; None where there are none, or before a network that takes codes is loaded."""
        return self._key if self._network is None else self._network.key

    def _take_network(
        self, generator: AnyGenerator, key: bytes | str | Path | None, codes: Codes | Coding | str | Path | None
    ) -> None:
        settings = self.settings
        tinted = settings.noise == "tint"
        shipped = tinted or (isinstance(generator, str) and generator == COMPACT)
        if (shipped and key is not None) or (codes is not None and not tinted):
            raise UserError(
                "key, codes, survive_grey and mask_by_contrast: are for noise of codes; leave them out, or leave the"
                " generator out"
            )
        if tinted:
            if not isinstance(codes, Mapping):
                raise UserError("noise 'tint': needs codes={class: tint}, such as a manifest's first line has them")
            self.codes = codes
        self._network = NetworkProtector(
            generator,
            settings.budget,
            self.region,
            device=settings.device,
            batch_size=settings.batch_size or 1,
            precision=settings.precision,
            key=None if key is None else _key_of(key),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_anew, (partial(self._made_of, key=self.key), self._options)

    @overload
    def __call__(self, image: AnyImage, mask: AnyMask | GivenFile | None = None, *more: Any, **named: Any) -> AnyImage:
        """Of an array or a PIL image."""

    @overload
    def __call__(self, image: bytes, mask: AnyMask | GivenFile | None = None, *more: Any, **named: Any) -> bytes:
        """Of the bytes of a file."""

    @overload
    def __call__(
        self, image: str | Path, mask: AnyMask | GivenFile | None = None, *more: Any, **named: Any
    ) -> Pillow.Image:
        """Of a path."""

    def __call__(self, image: Any, mask: Any = None, *more: Any, **named: Any) -> Any:
        """Returns the unlearnable image, of the kind that was given; the given one stays as it is.

        The arguments are those of `result`. Warns with WeakProtection where the image is not to be called protected, or
        the noise is all over.
        """
        made = self.result(image, mask, *more, **named)
        warn_if_weak(made, stacklevel=3)
        return made.image

    def result(
        self,
        image: AnyGiven,
        mask: AnyMask | GivenFile | None = None,
        boxes: Boxes | None = None,
        *,
        refine_boxes: bool = False,
        points: AnyPoints | None = None,
        classes: np.ndarray | None = None,
        whole_image: bool = False,
    ) -> ProtectedImage:
        """Returns the unlearnable image with what became of it; the given one stays as it is.

        image: a numpy array, H×W, H×W×1, H×W×3 RGB or H×W×4 RGBA of uint8 or uint16; a PIL image, which keeps its mode
        if that is L, LA, RGB, RGBA or I;16, and becomes one of these else; the bytes of an image file, for which bytes
        of one come back, those that the command writes; or a path, for which a PIL image comes back. Alpha stays.

        Exactly one of these says what the object is. mask: H×W bool, or 0 and 255, as array or PIL image, or a mask's
        file, as path or bytes; or "auto", the foreground that a network of rembg finds (`auto_model` names one). boxes:
        N×4 XYXY in pixels, corners inclusive; refine_boxes: the object is what GrabCut finds in each box instead.
        points: N×2 (x, y) in pixels on the object, or {"object": …, "background": …} of such: the object is what
        GrabCut finds around them. classes: H×W class ids, of which each gets the noise of its code, and 255 (no class)
        none. whole_image: all of it, which cannot keep networks from learning the objects in it. Raises
        UserError for anything else, and where no object is found.
        """
        given = read_any(image, self.settings)
        if classes is not None:
            others = (mask is not None, boxes is not None, points is not None, refine_boxes, whole_image)
            if any(others):
                raise UserError(
                    "classes: tell by themselves what the object is; leave out mask, boxes, points and whole_image"
                )
            return self._finished(given, *self._with_classes(given.samples_HWC, classes))
        if is_file(mask) and not is_auto(mask):
            mask = mask_in_file(cast(GivenFile, mask), given, self.settings)
        found = given_object(
            given.samples_HWC,
            cast("AnyMask | None", mask),
            boxes,
            refine_boxes=refine_boxes,
            points=points,
            whole_image=whole_image,
            auto_model=self.settings.auto_model,
        )
        if not found.mask_HW.any():
            raise UserError("mask: no object in it; give one that shows the object")
        all_over = bool(found.mask_HW.mean() >= ALL_OVER)
        if self._network is None:
            codes_HW = np.where(found.mask_HW, np.uint8(OBJECT), np.uint8(ABSENCE))
            book = ONE_CODE_BOOK if self._coding is None else self._coding.book
            changed = self._coded(given.samples_HWC, codes_HW, book)
            return self._finished(given, changed, found.mask_HW, all_over=all_over)
        if self.settings.noise == "tint":
            raise UserError("noise 'tint': tells classes apart; give classes")
        with _as_in_a_run(self._network):
            changed = self._network.changed(given.samples_HWC, found)
            return self._finished(given, changed, self._network.region(found.mask_HW), all_over=all_over)

    def many(
        self,
        images: Iterable[AnyGiven],
        masks: Iterable[AnyMask | GivenFile] | None = None,
        *,
        boxes: Iterable[Boxes] | None = None,
        points: Iterable[AnyPoints] | None = None,
        classes: Iterable[np.ndarray] | None = None,
        refine_boxes: bool = False,
        whole_image: bool = False,
        workers: int | None = None,
    ) -> Iterator[ProtectedImage]:
        """Yields what `result` returns for each image, in their order, while later ones are worked on.

        masks, boxes, points, classes: one for each image, or masks="auto"; UserError where they are fewer or more.
        workers: threads, 1 or more; None: one a core. A few images are ahead at a time, so that any number of them
        flows through.
        """
        workers = of_kinds({"workers": workers}, {"workers": int | None})["workers"]
        if workers is not None and workers < 1:
            raise UserError(f"workers {workers}: give 1 or more")
        of_all: dict[str, Any] = {"refine_boxes": refine_boxes, "whole_image": whole_image}
        if is_auto(masks):
            masks, of_all["mask"] = None, masks
        by_image = {"mask": masks, "boxes": boxes, "points": points, "classes": classes}
        columns = {name: values for name, values in by_image.items() if values is not None}
        ahead: deque[Future[ProtectedImage]] = deque()
        count = workers or cores()
        with worker_threads(count) as pool:
            try:
                for image, hints in _together(images, columns):
                    if len(ahead) > 2 * count:
                        yield ahead.popleft().result()
                    ahead.append(pool.submit(self.result, image, **of_all, **hints))
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def _finished(
        self, given: GivenImage, changed_HWC: np.ndarray, region_HW: np.ndarray, all_over: bool = False
    ) -> ProtectedImage:
        image = given.back(changed_HWC)
        effect = effect_of(
            given.samples_HWC,
            decode_samples(image) if given.lossy else changed_HWC,
            region_HW,
            self.budget if self._network is not None else Budget(self.budget.object, 0),
            noised_HWC=changed_HWC if given.lossy else None,
            quality=self.settings.quality,
        )
        return ProtectedImage(image, effect, given.note, all_over)

    def _coded(self, samples_HWC: np.ndarray, codes_HW: np.ndarray, book: CodeBook) -> np.ndarray:
        assert self._key is not None, "noise of codes has a key"
        options = {"survive_grey": self.settings.survive_grey, "mask_by_contrast": self.settings.mask_by_contrast}
        return apply_codes(samples_HWC, codes_HW, book, self._key, self.budget, **options)

    def _with_classes(self, samples_HWC: np.ndarray, classes_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the changed samples, and where there is noise, H×W bool."""
        codes_HW = self._codes_of_classes(classes_HW, samples_HWC.shape[:2])
        if self._network is None:
            assert self._coding is not None, "its codes are the protector's"
            return self._coded(samples_HWC, codes_HW, self._coding.book), (codes_HW != ABSENCE) & (codes_HW != NO_CODE)
        return self._network.by_class(samples_HWC, codes_HW), codes_HW != NO_CODE

    def _codes_of_classes(self, classes_HW: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
        if self._network is not None and self.settings.noise != "tint":
            raise UserError("classes: are for noise of codes; leave out the generator")
        if self.codes is None:
            raise UserError("classes: need codes; make the protector with codes={class: code}, 0 for no noise")
        if not isinstance(classes_HW, np.ndarray) or classes_HW.ndim != 2 or classes_HW.dtype.kind not in "iu":
            raise UserError("classes: give a numpy array H×W of whole numbers, the class of every pixel")
        if classes_HW.shape != size:
            raise UserError(f"classes: expected {size[0]}×{size[1]} as of the image, got {classes_HW.shape}")
        try:
            return code_map(classes_HW, self.codes)
        except ValueError as error:
            raise UserError(f"classes: {error}; give codes for all classes") from error


def warn_if_weak(made: ProtectedImage, stacklevel: int) -> None:
    """Warns with WeakProtection, in the name of the caller that many levels up, unless an image is protected and a part
    of it is without the noise of its object."""
    if not made.is_protected:
        told = f"image: {made.effect.status}, not protected: {made.effect.reason}"
        warnings.warn(told, WeakProtection, stacklevel=stacklevel)
    elif made.all_over:
        told = "image: its noise is all over, which cannot keep networks from learning the objects in it"
        warnings.warn(told, WeakProtection, stacklevel=stacklevel)


def _made_anew(made_of: partial[Protector], options: dict[str, Any]) -> Protector:
    return made_of(**options)


def _settings(generator: AnyGenerator | None, budget: Budget | None, options: Mapping[str, Any]) -> ProtectSettings:
    """Returns the settings of a protector; UserError where an option is for folders, or something is said twice."""
    if budget is not None and not isinstance(budget, Budget):
        raise UserError(f"budget: give Budget(object, background), not a {type(budget).__name__}")
    of_folders = [name for name in OF_FOLDERS if name in options]
    if of_folders:
        raise UserError(f"{of_folders[0]}: is for folders; give it to unseg.protect_folder")
    twice = [name for name in BUDGET if name in options]
    if budget is not None and twice:
        raise UserError(f"budget and {twice[0]}: give one of them, each says how much may change")
    name = generator if isinstance(generator, (str, Path)) else None
    named, noise = {**options, "generator": name}, options.get("noise")
    if generator is not None and name is None:
        if noise not in (None, "sam"):
            raise UserError(f"noise {noise!r}: has a generator of its own, or none; leave out generator")
        named.pop("noise", None)
    settings = named_settings(ProtectSettings(budget=budget or Budget()), **named)
    if settings.quality:
        check_can_measure("quality")
    return settings


def _as_in_a_run(network: NetworkProtector) -> AbstractContextManager[None]:
    """Returns a context in which a network computes as in a run, to the last bit."""
    return alone() if network.network.image_size <= SMALL_NETWORK_SIDE else nullcontext()


def _together(images: Iterable[Any], columns: Mapping[str, Iterable[Any]]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yields each image with what is said of it; UserError where one of the columns ends before the others."""
    rows = [iter(images), *map(iter, columns.values())]
    end = object()
    for _ in repeat(None):
        row = [next(one, end) for one in rows]
        if all(value is end for value in row):
            return
        if any(value is end for value in row):
            raise UserError(f"images and {' and '.join(columns)}: are not equally many; give one for each image")
        yield row[0], dict(zip(columns, row[1:], strict=True))


def _key_of(given: bytes | str | Path | None) -> bytes:
    if given is None:
        return new_key()
    if isinstance(given, (bytes, bytearray, memoryview)):
        if len(bytes(given)) != KEY_BYTES:
            raise UserError(f"key: has {len(bytes(given))} bytes; give {KEY_BYTES}, or the file that holds them")
        return bytes(given)
    if not isinstance(given, (str, os.PathLike)):
        raise UserError(f"key: is of type {type(given).__name__}; give {KEY_BYTES} bytes, or the file that holds them")
    return read_key(Path(given))


def _coding_of(given: Codes | Coding | str | Path | None) -> Coding | None:
    if given is None or isinstance(given, Coding):
        return given
    if isinstance(given, Mapping):
        return coding_of_mapping(given)
    if not isinstance(given, (str, os.PathLike)):
        raise UserError(f"codes: is of type {type(given).__name__}; give {{class: code}}, or the file that holds them")
    return read_coding(Path(given))
