"""A transform of torchvision's second kind that protects images as they are loaded. It needs torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as Pillow

from unseg.errors import UserError, naming_the_extra
from unseg.protecting.protector import Protector, warn_if_weak

with naming_the_extra("unseg.transforms"):
    import torch
    from torch.utils._pytree import tree_flatten, tree_unflatten
    from torchvision import tv_tensors
    from torchvision.transforms import v2
    from torchvision.transforms.v2 import functional

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from unseg.protecting.generators import AnyGenerator
    from unseg.protecting.named_settings import ImageOptions
    from unseg.protecting.protector import Codes

UPRIGHT = ("XYXY", "XYWH", "CXCYWH")  # formats of boxes


class Protect(v2.Transform):
    """Protects the image of each sample; masks, boxes, labels and all else of the sample stay as they are.

    A sample is what v2 transforms take: an image with what belongs to it, in tuples, lists and dicts of any depth. Its
    one image is a `tv_tensors.Image` of uint8, C×H×W with one, three (RGB) or four (RGBA) channels, or a PIL image. Its
    object is what its one `tv_tensors.Mask` shows: H×W, or N×H×W of N objects; bool, or 0 and 1 or 255. With `codes`,
    the mask is H×W of class ids, and each class has its own noise. Where there is no mask, the object is what lies in
    its `tv_tensors.BoundingBoxes`. whole_image: all of the image, whatever else there is, which cannot keep networks
    from learning the objects in it.

    generator, key, codes and options are those of `unseg.Protector`; the attribute `protector` is the one at work, and
    `protector.key` its key. The noise belongs to an image as it is stored: put this transform before crops, colour
    changes and `ToDtype`. Raises UserError where a sample holds no image, several, or nothing that shows the object.
    """

    def __init__(
        self,
        generator: AnyGenerator | None = None,
        *,
        key: bytes | str | Path | None = None,
        codes: Codes | str | Path | None = None,
        whole_image: bool = False,
        **options: Unpack[ImageOptions],
    ) -> None:
        super().__init__()
        self.protector = Protector(generator, key=key, codes=codes, **options)
        self.whole_image = whole_image

    def forward(self, *inputs: Any) -> Any:
        """Returns the sample with its image protected."""
        leaves, form = tree_flatten(inputs if len(inputs) > 1 else inputs[0])
        place = self._place_of_image(leaves)
        made = self.protector.result(_values(leaves[place]), **self._object_of(leaves))
        warn_if_weak(made, stacklevel=2)
        leaves[place] = _like(leaves[place], made.image)
        return tree_unflatten(leaves, form)

    def extra_repr(self) -> str:
        """Returns what `print` shows of it."""
        budget, kind = self.protector.budget, self.protector.settings.kind
        return f"noise={kind}, epsilon={budget.object:g}, whole_image={self.whole_image}"

    @staticmethod
    def _place_of_image(leaves: list[Any]) -> int:
        places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, (tv_tensors.Image, Pillow.Image))]
        if len(places) != 1:
            raise UserError(
                f"sample: holds {len(places)} images; give one tv_tensors.Image or PIL image, and masks as"
                " tv_tensors.Mask"
            )
        return places[0]

    def _object_of(self, leaves: list[Any]) -> dict[str, Any]:
        """Returns what says where the object is, as `Protector.result` takes it."""
        if self.whole_image:
            return {"whole_image": True}
        masks = [leaf for leaf in leaves if isinstance(leaf, tv_tensors.Mask)]
        if len(masks) > 1:
            raise UserError(f"sample: holds {len(masks)} masks; give one, H×W or N×H×W")
        if masks:
            return {"mask": _union(masks[0])} if self.protector.codes is None else {"classes": _plane(masks[0])}
        boxes = [leaf for leaf in leaves if isinstance(leaf, tv_tensors.BoundingBoxes)]
        if len(boxes) != 1:
            raise UserError(
                "sample: nothing shows the object; give a tv_tensors.Mask or tv_tensors.BoundingBoxes, or make the"
                " transform with whole_image=True"
            )
        return {"boxes": _corners(boxes[0])}


def _values(image: tv_tensors.Image | Pillow.Image) -> np.ndarray | Pillow.Image:
    """Returns an image as a protector takes it; UserError where it is no single image of uint8."""
    if isinstance(image, Pillow.Image):
        return image
    if image.ndim != 3 or image.dtype != torch.uint8:
        raise UserError(
            f"image: expected C×H×W of uint8, got {'×'.join(map(str, image.shape))} {image.dtype}; put Protect before"
            " ToDtype, and before batches are made"
        )
    return np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())


def _like(image: tv_tensors.Image | Pillow.Image, made: np.ndarray | Pillow.Image) -> Any:
    if isinstance(image, Pillow.Image) or isinstance(made, Pillow.Image):
        return made
    return tv_tensors.wrap(torch.from_numpy(made).permute(2, 0, 1).contiguous().to(image.device), like=image)


def _union(mask: tv_tensors.Mask) -> np.ndarray:
    """Returns where any object is, H×W."""
    if mask.ndim == 2:
        return mask.cpu().numpy()
    if mask.ndim != 3 or not len(mask):
        raise UserError(f"mask: expected H×W or N×H×W, got {'×'.join(map(str, mask.shape))}")
    return mask.cpu().numpy().max(axis=0)


def _plane(mask: tv_tensors.Mask) -> np.ndarray:
    found = mask[0] if mask.ndim == 3 and len(mask) == 1 else mask
    return found.cpu().numpy()


def _corners(boxes: tv_tensors.BoundingBoxes) -> list[list[float]]:
    """Returns boxes XYXY. Pixels at the right and lower corners count as object, so that no part of it is left out."""
    if boxes.format.name not in UPRIGHT:
        raise UserError(f"boxes: are {boxes.format.name}; give upright ones, {', '.join(UPRIGHT)}, or a mask")
    corners = functional.convert_bounding_box_format(boxes, new_format=tv_tensors.BoundingBoxFormat.XYXY)
    return corners.as_subclass(torch.Tensor).reshape(-1, 4).double().cpu().tolist()
