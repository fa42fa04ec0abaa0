"""Small, valid annotations of every format, with the masks they stand for: regions of photographs, three images.

a.png: coins of classes 1 and 2. b.png: a horse of class 2. c.png: annotated, without any object.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from pycocotools import mask as coco_mask
from scipy import ndimage
from skimage import data, measure, transform

Region = tuple[int, np.ndarray]  # class id, H×W bool
NAMES = {1: "coin", 2: "horse"}
VOC_PALETTE = [0, 0, 0, 128, 0, 0, 0, 128, 0]  # the first three colours, as VOC's page shows them


@lru_cache
def photographs() -> dict[str, tuple[np.ndarray, tuple[Region, ...]]]:
    """Image name → pixels H×W×3 uint8, regions that do not overlap."""
    coins = data.coins()[10:90, 20:140]
    coin_labels, count = ndimage.label(ndimage.binary_opening(coins > 110, iterations=3))
    horse = ~data.horse().astype(bool)
    horse = ndimage.binary_fill_holes(transform.resize(horse.astype(float), (50, 66), anti_aliasing=True) > 0.5)
    regions = tuple((1 + number % 2, coin_labels == number) for number in range(1, count + 1))
    assert count >= 3
    return {
        "a.png": (np.dstack([coins] * 3), regions),
        "b.png": (np.dstack([np.where(horse, 60, 200).astype(np.uint8)] * 3), ((2, horse),)),
        "c.png": (np.full((20, 30, 3), 90, np.uint8), ()),
    }


def expected(name: str, classes: tuple[int, ...] = (1, 2)) -> np.ndarray:
    """The union of an image's regions."""
    pixels, regions = photographs()[name]
    return np.any(
        [mask for class_id, mask in regions if class_id in classes] or [np.zeros(pixels.shape[:2], bool)], axis=0
    )


def class_map(name: str) -> np.ndarray:
    """H×W uint8, 0 where there is nothing."""
    pixels, regions = photographs()[name]
    values = np.zeros(pixels.shape[:2], np.uint8)
    for class_id, mask in regions:
        values[mask] = class_id
    return values


def outline(mask: np.ndarray) -> np.ndarray:
    """The longest border of a region, N×2 (x, y), in coordinates where a pixel reaches from its number to the next."""
    contour = max(measure.find_contours(np.pad(mask, 1).astype(float), 0.5), key=len) - 1 + 0.5
    return contour[:-1, ::-1]


@dataclass
class Built:
    """A set as it was written.

    path: what `--annotations` is given. files: those that a fuzzer may break. exact: masks come back to the pixel.
    """

    path: Path
    images: Path
    exact: bool = True
    names: dict[str, str] = field(default_factory=dict)  # image name here → in the set, where it differs

    def name(self, image: str) -> str:
        return self.names.get(image, image)


def build(name: str, root: Path) -> Built:
    return BUILDERS[name](root)


def write_images(folder: Path, named: Callable[[str], str] = str) -> Path:
    for name, (pixels, _) in photographs().items():
        (folder / named(name)).parent.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(pixels).save(folder / named(name))
    return folder


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def coco_content(shape: Callable[[np.ndarray], object]) -> dict:
    content = {
        "info": {},
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in NAMES.items()],
    }
    for image_id, (name, (pixels, regions)) in enumerate(photographs().items(), 7):
        height, width = pixels.shape[:2]
        content["images"].append({"id": image_id, "file_name": name, "height": height, "width": width})
        for class_id, mask in regions:
            content["annotations"].append(
                {
                    "id": len(content["annotations"]) + 1,
                    "image_id": image_id,
                    "iscrowd": 0,
                    "category_id": class_id,
                    "segmentation": shape(mask),
                }
            )
    return content


def polygons_of(mask: np.ndarray) -> list[list[float]]:
    return [outline(mask).ravel().round(3).tolist()]


def compressed_of(mask: np.ndarray) -> dict:
    encoded = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(mask.shape), "counts": encoded["counts"].decode()}


def counts_of(mask: np.ndarray) -> list[int]:
    """Run lengths down the columns, written plainly."""
    counts, current = [0], False
    for value in mask.T.ravel().tolist():
        if value != current:
            counts.append(0)
            current = value
        counts[-1] += 1
    return counts


def uncompressed_of(mask: np.ndarray) -> dict:
    return {"size": list(mask.shape), "counts": counts_of(mask)}


def build_coco(root: Path, shape: Callable[[np.ndarray], object], exact: bool) -> Built:
    return Built(write_json(root / "instances.json", coco_content(shape)), write_images(root / "images"), exact)


def build_panoptic(root: Path, cityscapes: bool = False) -> Built:
    """Ids of three digits of base 256, so that a wrong order of channels shows."""
    content = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name, "isthing": number - 1} for number, name in NAMES.items()],
    }
    folder = root / "panoptic"
    folder.mkdir(parents=True)
    names = {}
    for number, (name, (pixels, regions)) in enumerate(photographs().items()):
        image_id: object = f"ulm_{number:06d}_000019" if cityscapes else number
        png = f"{image_id}_gtFine_panoptic.png" if cityscapes else f"{Path(name).stem}.png"
        names[name] = f"ulm/{image_id}_leftImg8bit.png" if cityscapes else name
        coded, segments = np.zeros(pixels.shape, np.uint8), []
        for place, (class_id, mask) in enumerate(regions):
            coded[mask] = 10 + place, 200 - place, place
            segments.append(
                {
                    "id": 10 + place + 256 * (200 - place) + 65536 * place,
                    "category_id": class_id,
                    "iscrowd": 0,
                    "area": int(mask.sum()),
                }
            )
        Pillow.fromarray(coded).save(folder / png)
        content["images"].append(
            {
                "id": image_id,
                "file_name": names[name].rpartition("/")[2],
                "height": pixels.shape[0],
                "width": pixels.shape[1],
            }
        )
        content["annotations"].append({"image_id": image_id, "file_name": png, "segments_info": segments})
    return Built(
        write_json(root / "panoptic.json", content), write_images(root / "images", names.__getitem__), names=names
    )


def build_maps(root: Path, kind: str) -> Built:
    folder = root / "masks"
    folder.mkdir(parents=True)
    for name in photographs():
        values = class_map(name)
        image = Pillow.fromarray(np.where(values > 0, 255, 0).astype(np.uint8) if kind == "binary" else values)
        if kind == "voc":
            image = image.convert("P")
            image.putpalette(VOC_PALETTE + full_voc_palette()[9:])
        image.save(folder / name)
    return Built(folder, write_images(root / "images"))


def full_voc_palette() -> list[int]:
    """VOC's colours for 21 classes, as its development kit lists them."""
    listed = (
        "000000 800000 008000 808000 000080 800080 008080 808080 400000 c00000 408000 c08000 400080 c00080 408080"
        " c08080 004000 804000 00c000 80c000 004080"
    )
    return list(bytes.fromhex(listed.replace(" ", "")))


def build_cityscapes(root: Path) -> Built:
    """Coins are cars (26, told apart), the horse is a crowd of persons (24), background is road (7)."""
    names = {}
    for number, (name, (pixels, regions)) in enumerate(photographs().items()):
        key = f"ulm_{number:06d}_000019"
        names[name] = f"train/ulm/{key}_leftImg8bit.png"
        labels, instances = (np.full(pixels.shape[:2], 0, kind) for kind in (np.uint8, np.uint16))
        for place, (_, mask) in enumerate(regions):
            labels[mask], instances[mask] = 26, 26000 + place
        folder = root / "gtFine" / "train" / "ulm"
        folder.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(labels).save(folder / f"{key}_gtFine_labelIds.png")
        Pillow.fromarray(instances).save(folder / f"{key}_gtFine_instanceIds.png")
        Pillow.fromarray(np.dstack([labels] * 3)).save(folder / f"{key}_gtFine_color.png")
        write_json(folder / f"{key}_gtFine_polygons.json", {"imgHeight": 1, "imgWidth": 1, "objects": []})
    return Built(root / "gtFine", write_images(root / "leftImg8bit", names.__getitem__), names=names)


def build_yolo(root: Path) -> Built:
    for name, (pixels, regions) in photographs().items():
        path = root / "labels" / "train" / f"{Path(name).stem}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = pixels.shape[1], pixels.shape[0]
        lines = [
            " ".join([str(class_id), *(f"{share:.6f}" for share in (outline(mask) / size).clip(0, 1).ravel())])
            for class_id, mask in regions
        ]
        path.write_text("".join(f"{line}\n" for line in lines))
    (root / "data.yaml").write_text("path: .\ntrain: images/train\nnames:\n  0: nothing\n  1: coin\n  2: horse\n")
    return Built(root, write_images(root / "images" / "train"), exact=False)


def labelme_mask(mask: np.ndarray) -> dict:
    """A "mask" shape: the box around the region and its PNG in base64."""
    rows, columns = np.nonzero(mask)
    top, bottom, left, right = (int(edge) for edge in (rows.min(), rows.max(), columns.min(), columns.max()))
    buffer = io.BytesIO()
    Pillow.fromarray(mask[top : bottom + 1, left : right + 1]).save(buffer, "PNG")
    return {
        "shape_type": "mask",
        "points": [[left, top], [right, bottom]],
        "mask": base64.b64encode(buffer.getvalue()).decode(),
    }


def build_labelme(root: Path, shape: Callable[[np.ndarray], dict], exact: bool) -> Built:
    for name, (pixels, regions) in photographs().items():
        write_json(
            root / "labels" / f"{Path(name).stem}.json",
            {
                "version": "5.4.1",
                "flags": {},
                "imagePath": f"../images/{name}",
                "imageData": "QUJD" * 100,
                "imageHeight": pixels.shape[0],
                "imageWidth": pixels.shape[1],
                "shapes": [
                    {"label": NAMES[class_id], "group_id": None, "flags": {}, **shape(mask)}
                    for class_id, mask in regions
                ],
            },
        )
    return Built(root / "labels", write_images(root / "images"), exact)


def build_sa_1b(root: Path) -> Built:
    for name, (pixels, regions) in photographs().items():
        entries = [{"id": place, "segmentation": compressed_of(mask)} for place, (_, mask) in enumerate(regions)]
        image = {"image_id": 1, "height": pixels.shape[0], "width": pixels.shape[1], "file_name": name}
        write_json(root / "jsons" / f"{Path(name).stem}.json", {"image": image, "annotations": entries})
    return Built(root / "jsons", write_images(root / "images"))


def build_image_folder(root: Path, suffix: str) -> Built:
    built = build_maps(root, "index")
    built.path.rename(root / "images" / "masks")
    rows = [{"file_name": name, "mask_file_name": f"masks/{name}", "caption": "x"} for name in photographs()]
    text = (
        "\n".join(json.dumps(row) for row in rows)
        if suffix == ".jsonl"
        else "\n".join(["file_name,mask_file_name", *(f"{row['file_name']},{row['mask_file_name']}" for row in rows)])
    )
    (root / "images" / f"metadata{suffix}").write_text(text + "\n")
    return Built(root / "images", root / "images")


def image_table(rows_a_piece: int = 2):
    """A pyarrow table as `datasets` lays it out."""
    import pyarrow

    def encode(pixels: np.ndarray) -> bytes:
        buffer = io.BytesIO()
        Pillow.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()

    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    columns = {
        "image": [{"bytes": encode(pixels), "path": name} for name, (pixels, _) in photographs().items()],
        "label": [{"bytes": encode(class_map(name)), "path": None} for name in photographs()],
    }
    return pyarrow.table({name: pyarrow.array(cells, kind) for name, cells in columns.items()} | {"caption": ["x"] * 3})


def build_tables(root: Path, suffix: str) -> Built:
    import pyarrow
    import pyarrow.parquet

    folder, table = root / "data", image_table()
    folder.mkdir(parents=True)
    path = folder / f"train-00000-of-00001{suffix}"
    if suffix == ".parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=2)
    else:
        with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
        write_json(folder / "state.json", {"_data_files": [{"filename": path.name}]})
    return Built(folder, write_images(root / "images"))


BUILDERS: dict[str, Callable[[Path], Built]] = {
    "coco polygons": lambda root: build_coco(root, polygons_of, False),
    "coco compressed": lambda root: build_coco(root, compressed_of, True),
    "coco uncompressed": lambda root: build_coco(root, uncompressed_of, True),
    "coco-panoptic": build_panoptic,
    "cityscapes-panoptic": lambda root: build_panoptic(root, cityscapes=True),
    "voc": lambda root: build_maps(root, "voc"),
    "index": lambda root: build_maps(root, "index"),
    "binary": lambda root: build_maps(root, "binary"),
    "cityscapes": build_cityscapes,
    "yolo": build_yolo,
    "labelme polygons": lambda root: build_labelme(
        root, lambda mask: {"shape_type": "polygon", "points": outline(mask).tolist()}, False
    ),
    "labelme masks": lambda root: build_labelme(root, labelme_mask, True),
    "sa-1b": build_sa_1b,
    "huggingface jsonl": lambda root: build_image_folder(root, ".jsonl"),
    "huggingface csv": lambda root: build_image_folder(root, ".csv"),
    "huggingface parquet": lambda root: build_tables(root, ".parquet"),
    "huggingface arrow": lambda root: build_tables(root, ".arrow"),
}
