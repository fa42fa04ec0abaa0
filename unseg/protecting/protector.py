"""One image in memory to its unlearnable version, with any kind of noise: the face for Python programs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np

from unseg.errors import UserError
from unseg.method.coded_noise import apply_codes
from unseg.method.codes import code_map
from unseg.method.config import Budget
from unseg.method.patterns import ABSENCE, BOOK
from unseg.protecting.coding import OBJECT, coding_from, read_coding
from unseg.protecting.generators import AnyGenerator
from unseg.protecting.given_images import AnyImage, AnyMask, AnyPoints, Boxes, read_given
from unseg.protecting.given_objects import given_object
from unseg.protecting.network_protector import NetworkProtector
from unseg.protecting.settings import Precision, Region
from unseg.storage.key_file import KEY_BYTES, new_key, read_key

Codes = Mapping[int, int]
_BUDGET = Budget()  # the paper's: 8 grey levels on the object, 2 on the background


class Protector:
    """Makes images unlearnable, as `unseg protect` does it.

    generator: None for noise of codes, patterns by formula that need no network and leave the background as it is; else
    "compact", which ships with the package, a weight file, `module:name`, or a generator itself (see
    `unseg.protecting.generators.load_generator`). budget: the largest change of a value, in grey levels of 255.

    Of codes only: key, 32 bytes or the file that holds them; without it one is drawn, which the attribute `key` holds:
    keep it where an image is to get the same noise again. codes: class → code, or a file that says so (a manifest, or
    JSON as `--codes` takes it), for calls with `classes`. survive_grey, mask_by_contrast: see
    `unseg.method.coded_noise.apply_codes`.

    Of networks only: region, device, batch_size and precision, as for
    `unseg.protecting.network_protector.NetworkProtector`.

    One protector may serve several threads.
    """

    def __init__(
        self,
        generator: AnyGenerator | None = None,
        budget: Budget = _BUDGET,
        region: Region = "mask",
        *,
        key: bytes | str | Path | None = None,
        codes: Codes | str | Path | None = None,
        survive_grey: bool = False,
        mask_by_contrast: bool = False,
        device: str = "auto",
        batch_size: int = 1,
        precision: Precision = "float32",
    ) -> None:
        if not isinstance(budget, Budget):
            raise UserError(f"budget: give Budget(object, background), not a {type(budget).__name__}")
        self._options = {"survive_grey": survive_grey, "mask_by_contrast": mask_by_contrast}
        self.budget, self._network = budget, cast(NetworkProtector | None, None)
        self.key: bytes | None = None
        self.codes: Codes | None = None
        if generator is None:
            if region != "mask":
                raise UserError(f"region: {region!r} follows a network's prompt; leave it out, or give a generator")
            self.key, self.codes = _key_of(key), _codes_of(codes)
            return
        if key is not None or codes is not None or survive_grey or mask_by_contrast:
            raise UserError(
                "key, codes, survive_grey and mask_by_contrast: are for noise of codes; leave them out, or leave the"
                " generator out"
            )
        self._network = NetworkProtector(
            generator, budget, region, device=device, batch_size=batch_size, precision=precision
        )

    def __call__(
        self,
        image: AnyImage,
        mask: AnyMask | None = None,
        boxes: Boxes | None = None,
        *,
        refine_boxes: bool = False,
        points: AnyPoints | None = None,
        classes: np.ndarray | None = None,
        whole_image: bool = False,
    ) -> AnyImage:
        """Returns the unlearnable image, of the kind that was given; the given one stays as it is.

        image: a numpy array, H×W, H×W×1 or H×W×3 RGB of uint8 or uint16, or a PIL image of mode L, LA, RGB or RGBA,
        whose alpha is kept. Exactly one of these says what the object is. mask: H×W bool, or 0 and 255, as array or PIL
        image. boxes: N×4 XYXY in pixels, corners inclusive; refine_boxes: the object is what GrabCut finds in each box
        instead. points: N×2 (x, y) in pixels on the object, or {"object": …, "background": …} of such: the object is
        what GrabCut finds around them. classes: H×W class ids, of which each gets the noise of its code, and 255 (no
        class) none. whole_image: all of it, which cannot keep networks from learning the objects in it. Raises
        UserError for anything else, and where no object is found.
        """
        given = read_given(image)
        if classes is not None:
            others = (mask is not None, boxes is not None, points is not None, refine_boxes, whole_image)
            if any(others):
                raise UserError(
                    "classes: tell by themselves what the object is; leave out mask, boxes, points and whole_image"
                )
            changed = self._coded(given.samples_HWC, self._codes_of_classes(classes))
        else:
            found = given_object(
                given.samples_HWC, mask, boxes, refine_boxes=refine_boxes, points=points, whole_image=whole_image
            )
            if self._network is not None:
                changed = self._network.changed(given.samples_HWC, found)
            else:
                codes_HW = np.where(found.mask_HW, np.uint8(OBJECT), np.uint8(ABSENCE))
                changed = self._coded(given.samples_HWC, codes_HW)
        return cast(AnyImage, given.back(changed))

    def _coded(self, samples_HWC: np.ndarray, codes_HW: np.ndarray) -> np.ndarray:
        if codes_HW.shape != samples_HWC.shape[:2]:
            height, width = samples_HWC.shape[:2]
            raise UserError(f"classes: expected {height}×{width} as of the image, got {codes_HW.shape}")
        assert self.key is not None, "noise of codes has a key"
        return apply_codes(samples_HWC, codes_HW, BOOK, self.key, self.budget, **self._options)

    def _codes_of_classes(self, classes_HW: np.ndarray) -> np.ndarray:
        if self._network is not None:
            raise UserError("classes: are for noise of codes; leave out the generator")
        if self.codes is None:
            raise UserError("classes: need codes; make the protector with codes={class: code}, 0 for no noise")
        if not isinstance(classes_HW, np.ndarray) or classes_HW.ndim != 2 or classes_HW.dtype.kind not in "iu":
            raise UserError("classes: give a numpy array H×W of whole numbers, the class of every pixel")
        try:
            return code_map(classes_HW, self.codes)
        except ValueError as error:
            raise UserError(f"classes: {error}; give codes for all classes") from error


def _key_of(given: bytes | str | Path | None) -> bytes:
    if given is None:
        return new_key()
    if isinstance(given, bytes):
        if len(given) != KEY_BYTES:
            raise UserError(f"key: has {len(given)} bytes; give {KEY_BYTES}, or the file that holds them")
        return given
    return read_key(Path(given))


def _codes_of(given: Codes | str | Path | None) -> Codes | None:
    if given is None:
        return None
    if isinstance(given, Mapping):
        return coding_from({"codes": {str(label): code for label, code in given.items()}}, "codes").codes
    coding = read_coding(Path(given))
    if coding.codes is None:
        raise UserError(f"codes: {given} holds one code for the object, none for classes; leave it out")
    return coding.codes


def protect_image(
    image: AnyImage,
    mask: AnyMask | None = None,
    *,
    boxes: Boxes | None = None,
    refine_boxes: bool = False,
    points: AnyPoints | None = None,
    classes: np.ndarray | None = None,
    whole_image: bool = False,
    key: bytes | str | Path | None = None,
    codes: Codes | str | Path | None = None,
    generator: AnyGenerator | None = None,
    budget: Budget = _BUDGET,
    region: Region = "mask",
    device: str = "auto",
) -> AnyImage:
    """Returns the unlearnable version of one image, as `Protector(generator, budget, …)(image, mask)` makes it.

    One of mask, boxes, classes and whole_image=True says what the object is. Without a key, one is drawn for all calls
    of this process. A generator that is given by its name is loaded once for all calls. A weight file is loaded anew
    once it has changed.
    """
    if generator is None:
        protector = Protector(None, budget, region, key=_own_key() if key is None else key, codes=codes)
    elif key is not None or codes is not None or not isinstance(generator, (str, Path)):
        protector = Protector(generator, budget, region, key=key, codes=codes, device=device)
    else:
        path = Path(generator)
        changed = path.stat().st_mtime_ns if path.is_file() else 0
        protector = _cached_protector(str(generator), budget, region, device, changed)
    return protector(
        image, mask, boxes, refine_boxes=refine_boxes, points=points, classes=classes, whole_image=whole_image
    )


@lru_cache(maxsize=1)
def _own_key() -> bytes:
    return new_key()


@lru_cache(maxsize=4)
def _cached_protector(generator: str, budget: Budget, region: Region, device: str, changed: int) -> Protector:
    return Protector(generator, budget, region, device=device)
