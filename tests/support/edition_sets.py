"""Miniature data sets in the exact layouts and names of the official ones, made of real photographs.

Every builder returns what an independent reader of its label arrays would call the object; none uses the project's
readers.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from skimage import data

WIDTH, HEIGHT = 96, 72


@dataclass
class Mini:
    """A data set that was written, and what an edition of it must hold.

    root: what DATA_ROOT is. objects: image → H×W bool, for those that are to be protected. bare: annotated or not,
    without an object: copied. absent: named in annotations, not on disk. untouched: images for evaluation. carried:
    other files that an evaluator needs. never: files that do not belong into an edition.
    """

    root: Path
    objects: dict[str, np.ndarray] = field(default_factory=dict)
    bare: set[str] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)
    untouched: set[str] = field(default_factory=set)
    carried: set[str] = field(default_factory=set)
    never: set[str] = field(default_factory=set)

    def image(self, name: str, place: int, grey: bool = False) -> str:
        pixels = photograph(place)
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Pillow.fromarray(pixels).convert("L") if grey else Pillow.fromarray(pixels)
        image.save(path, **({"quality": 90} if path.suffix == ".jpg" else {}))
        return name

    def label(self, name: str, values: np.ndarray, palette: bool = False, **options: object) -> str:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Pillow.fromarray(values)
        if palette:
            image.putpalette(voc_colours())
        image.save(path, **options)
        self.carried.add(name)
        return name

    def text(self, name: str, content: str) -> str:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        self.carried.add(name)
        return name


@lru_cache
def photograph(place: int) -> np.ndarray:
    """One of several photographs, H×W×3 uint8; places beyond their number are other parts of them."""
    pixels = (data.astronaut, data.chelsea, data.coffee, data.rocket)[place % 4]()
    shift = 20 * (place // 4)
    part = pixels[shift : shift + 4 * HEIGHT, shift : shift + 4 * WIDTH]
    return np.asarray(Pillow.fromarray(part).resize((WIDTH, HEIGHT), Pillow.Resampling.BOX))


def voc_colours() -> list[int]:
    listed = (
        "000000 800000 008000 808000 000080 800080 008080 808080 400000 c00000 408000 c08000 400080 c00080 408080"
        " c08080 004000 804000 00c000 80c000 004080"
    )
    return list(bytes.fromhex(listed.replace(" ", ""))) + [0] * (256 - 21) * 3


def ellipse(centre_x: int, centre_y: int, radius_x: int, radius_y: int) -> np.ndarray:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return ((columns - centre_x) / radius_x) ** 2 + ((rows - centre_y) / radius_y) ** 2 <= 1


LEFT, RIGHT, SMALL = ellipse(28, 36, 20, 26), ellipse(74, 30, 15, 18), ellipse(60, 62, 7, 6)
RING = ellipse(28, 36, 23, 29) & ~LEFT  # around the left one, as VOC's border of 255
NOTHING = np.zeros((HEIGHT, WIDTH), bool)


def class_map(background: int, *parts: tuple[np.ndarray, int], dtype: type = np.uint8) -> np.ndarray:
    values = np.full((HEIGHT, WIDTH), background, dtype)
    for mask, value in parts:
        values[mask] = value
    return values


def pascal(root: Path, objects: str = "all") -> Mini:
    home = "VOCdevkit/VOC2012"
    mini = Mini(root)
    maps = {
        "2007_000032": class_map(0, (LEFT, 1), (RIGHT, 15), (RING, 255)),
        "2007_000039": class_map(0, (SMALL, 20)),
        "2007_000063": class_map(0, (RIGHT, 3)),
        "2007_000068": class_map(0),
    }
    for place, (stem, values) in enumerate(maps.items()):
        name = mini.image(f"{home}/JPEGImages/{stem}.jpg", place, grey=stem == "2007_000063")
        mini.label(f"{home}/SegmentationClass/{stem}.png", values, palette=True)
        mini.label(f"{home}/SegmentationObject/{stem}.png", values, palette=True)
        taken = {"all": (values != 0) & (values != 255), "multi": (values >= 1) & (values <= 5), "15": values == 15}[
            objects
        ]
        if taken.any():
            mini.objects[name] = taken
        else:
            mini.bare.add(name)
    mini.absent.add(f"{home}/JPEGImages/2007_000121.jpg")
    mini.text(f"{home}/ImageSets/Segmentation/train.txt", "\n".join([*maps, "2007_000121"]) + "\n")
    mini.untouched.add(mini.image(f"{home}/JPEGImages/2007_000033.jpg", 5))
    mini.label(f"{home}/SegmentationClass/2007_000033.png", class_map(0, (LEFT, 4)), palette=True)
    mini.text(f"{home}/ImageSets/Segmentation/val.txt", "2007_000033\n")
    mini.never.add(mini.image(f"{home}/JPEGImages/2008_000001.jpg", 6))  # of no segmentation list
    return mini


def ade20k(root: Path, objects: str = "all") -> Mini:
    home = "ADEChallengeData2016"
    mini = Mini(root)
    maps = {
        "ADE_train_00000001": class_map(0, (LEFT, 12), (RIGHT, 20), (RING, 255)),
        "ADE_train_00000002": class_map(255, (RIGHT, 149)),
        "ADE_train_00000003": class_map(255, (SMALL, 2)),
        "ADE_train_00000004": class_map(255),
    }
    for place, (stem, values) in enumerate(maps.items()):
        name = mini.image(f"{home}/images/training/{stem}.jpg", place, grey=stem.endswith("2"))
        mini.label(f"{home}/annotations_detectron2/training/{stem}.png", values)
        mini.label(f"{home}/annotations/training/{stem}.png", (values + 1).astype(np.uint8))  # 255 becomes 0
        taken = values != 255 if objects == "all" else np.isin(values, (12, 20, 149))
        if taken.any():
            mini.objects[name] = taken
        else:
            mini.bare.add(name)
    mini.label(f"{home}/annotations_detectron2/training/ADE_train_00000005.png", class_map(0))
    mini.absent.add(f"{home}/images/training/ADE_train_00000005.png")
    mini.untouched.add(mini.image(f"{home}/images/validation/ADE_val_00000001.jpg", 4))
    mini.label(f"{home}/annotations_detectron2/validation/ADE_val_00000001.png", class_map(3, (LEFT, 12)))
    mini.text(f"{home}/objectInfo150.txt", "Idx\tRatio\tTrain\tVal\tStuff\tName\n")
    return mini


# category id, whether it is a thing
COCO_CATEGORIES = {1: ("person", 1), 18: ("dog", 1), 119: ("flower", 0), 184: ("tree-merged", 0)}
Part = tuple[np.ndarray, int, int]  # mask, category, iscrowd


def segment_ids(count: int) -> list[int]:
    """Ids with three different digits of base 256, so that a wrong order of channels shows."""
    return [7 + place + 256 * (90 + place) + 65536 * (200 - place) for place in range(count)]


def colours(parts: list[Part]) -> tuple[np.ndarray, list[dict]]:
    """The panoptic PNG of an image, R + 256 G + 65536 B, and its segments_info."""
    ids = np.zeros((HEIGHT, WIDTH), np.int64)
    infos = []
    for number, (mask, category, crowd) in zip(segment_ids(len(parts)), parts, strict=True):
        ids[mask] = number
        infos.append(
            {"id": number, "category_id": category, "iscrowd": crowd, "area": int(mask.sum()), "bbox": [0, 0, 1, 1]}
        )
    return np.dstack([ids % 256, ids // 256 % 256, ids // 65536]).astype(np.uint8), infos


def polygon(left: int, top: int, right: int, bottom: int) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def box(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """The pixels whose centres lie in the polygon of that box."""
    mask = NOTHING.copy()
    mask[top:bottom, left:right] = True
    return mask


def _coco_contents() -> tuple[dict, dict]:
    """Returns a panoptic and an instances json without images."""
    panoptic, instances = (
        {"info": {"year": 2017}, "images": [], "annotations": [], "categories": []} for _ in range(2)
    )
    for category, (label, thing) in COCO_CATEGORIES.items():
        panoptic["categories"].append({"id": category, "name": label, "isthing": thing, "supercategory": "x"})
        if thing:
            instances["categories"].append({"id": category, "name": label, "supercategory": "x"})
    return panoptic, instances


def _add_instances(annotations: list[dict], number: int, parts: list[Part], boxes: dict[bytes, tuple]) -> None:
    """Adds the things of an image: polygons, and run lengths of crowds. boxes: a mask's bytes → its corners."""
    for mask, category, is_crowd in parts:
        if not COCO_CATEGORIES[category][1]:
            continue
        corners = boxes[mask.tobytes()]
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": category,
                "iscrowd": is_crowd,
                "area": int(mask.sum()),
                "bbox": [corners[0], corners[1], 20, 20],
                "segmentation": counts_of(mask) if is_crowd else [polygon(*corners)],
            }
        )


def coco(root: Path, objects: str = "all", annotations: str = "panoptic") -> Mini:
    """The things of an image are its instances; the crowd is one in both."""
    mini = Mini(root)
    person, dog, crowd = (10, 8, 40, 60), (50, 20, 90, 50), (60, 52, 90, 70)
    tree = ~(box(*person) | box(*dog) | box(*crowd)) & (np.arange(HEIGHT)[:, None] < 30)
    train = {
        9: [(box(*person), 1, 0), (box(*dog), 18, 0), (box(*crowd), 1, 1), (tree, 184, 0)],
        25: [(tree, 184, 0)],
        30: [(box(*dog), 18, 0)],
        34: [(box(*crowd), 1, 1)],
    }
    boxes = {box(*corners).tobytes(): corners for corners in (person, dog, crowd)}
    for split, images in (("train", train), ("val", {139: [(box(*person), 1, 0)]})):
        panoptic, instances = _coco_contents()
        for place, (number, parts) in enumerate(images.items()):
            stem = f"{number:012d}"
            name = mini.image(f"coco/{split}2017/{stem}.jpg", place, grey=number == 30)
            pixels, infos = colours(parts)
            mini.label(f"coco/panoptic_{split}2017/{stem}.png", pixels)
            panoptic["annotations"].append({"image_id": number, "file_name": f"{stem}.png", "segments_info": infos})
            _add_instances(instances["annotations"], number, parts, boxes)
            for content in (panoptic, instances):
                content["images"].append(
                    {
                        "id": number,
                        "file_name": f"{stem}.jpg",
                        "height": HEIGHT,
                        "width": WIDTH,
                        "license": 3,
                        "coco_url": f"http://images.cocodataset.org/{split}2017/{stem}.jpg",
                    }
                )
            if split == "val":
                mini.untouched.add(name)
                continue
            things_only = objects == "multi" or annotations == "instances"
            taken = [
                mask
                for mask, category, is_crowd in parts
                if not is_crowd and (COCO_CATEGORIES[category][1] or not things_only)
            ]
            if taken:
                mini.objects[name] = np.any(taken, axis=0)
            else:
                mini.bare.add(name)
        if split == "train":
            for content in (panoptic, instances):
                content["images"].append({"id": 999, "file_name": "000000000999.jpg", "height": HEIGHT, "width": WIDTH})
            mini.absent.add("coco/train2017/000000000999.jpg")
        mini.text(f"coco/annotations/panoptic_{split}2017.json", json.dumps(panoptic))
        mini.text(f"coco/annotations/instances_{split}2017.json", json.dumps(instances))
    return mini


def counts_of(mask: np.ndarray) -> dict:
    """Run lengths down the columns, written plainly, as COCO has its crowds."""
    counts, current = [0], False
    for value in mask.T.ravel().tolist():
        if value != current:
            counts.append(0)
            current = value
        counts[-1] += 1
    return {"size": list(mask.shape), "counts": counts}


def cityscapes(root: Path, objects: str = "all", annotations: str = "panoptic") -> Mini:
    """Road below, two cars, a crowd of persons (its label id as instance id), the ego vehicle void."""
    mini = Mini(root)
    road = np.zeros((HEIGHT, WIDTH), bool)
    road[40:] = True
    ego = np.zeros((HEIGHT, WIDTH), bool)
    ego[66:] = True
    scenes = {
        "train/aachen/aachen_000000_000019": [(road, 7), (LEFT, 26), (RIGHT, 26), (SMALL, 24), (ego, 1)],
        "train/bochum/bochum_000000_000313": [(road, 7), (RIGHT, 33)],
        "train/bochum/bochum_000000_000600": [(SMALL, 24)],
        "val/frankfurt/frankfurt_000000_000294": [(road, 7), (LEFT, 26)],
    }
    jsons = {
        split: {
            "images": [],
            "annotations": [],
            "categories": [
                {"id": number, "name": label, "isthing": thing, "color": [0, 0, 0]}
                for number, label, thing in ((7, "road", 0), (24, "person", 1), (26, "car", 1), (33, "bicycle", 1))
            ],
        }
        for split in ("train", "val")
    }
    for place, (key, layers) in enumerate(scenes.items()):
        split, city, stem = key.split("/")
        name = mini.image(f"cityscapes/leftImg8bit/{key}_leftImg8bit.png", place, grey=stem.endswith("313"))
        labels, instances = class_map(0), class_map(0, dtype=np.int32)
        for number, (mask, label) in enumerate(layers):
            crowd_or_stuff = label in (7, 1) or mask is SMALL
            labels[mask], instances[mask] = label, label if crowd_or_stuff else 1000 * label + number
        parts = [
            (instances == value, value // 1000 if value >= 1000 else value, int(value == 24))
            for value in np.unique(instances).tolist()
            if value not in (0, 1)
        ]
        pixels, infos = colours(parts)
        target = f"cityscapes/gtFine/{key}_gtFine_"
        mini.label(f"{target}labelIds.png", labels)
        mini.label(f"{target}instanceIds.png", instances.astype(np.uint16))
        mini.label(f"{target}color.png", np.dstack([labels] * 3))
        mini.text(f"{target}polygons.json", json.dumps({"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": []}))
        mini.label(f"cityscapes/gtFine/cityscapes_panoptic_{split}/{stem}_gtFine_panoptic.png", pixels)
        jsons[split]["images"].append(
            {"id": stem, "width": WIDTH, "height": HEIGHT, "file_name": f"{stem}_gtFine_leftImg8bit.png"}
        )
        jsons[split]["annotations"].append(
            {"image_id": stem, "file_name": f"{stem}_gtFine_panoptic.png", "segments_info": infos}
        )
        if split == "val":
            mini.untouched.add(name)
            continue
        wanted = [mask for mask, category, crowd in parts if not crowd and (category >= 24 or objects == "all")]
        if wanted:
            mini.objects[name] = np.any(wanted, axis=0)
        else:
            mini.bare.add(name)
    if annotations == "panoptic":
        jsons["train"]["images"].append(
            {
                "id": "aachen_000000_000999",
                "width": WIDTH,
                "height": HEIGHT,
                "file_name": "aachen_000000_000999_gtFine_leftImg8bit.png",
            }
        )
        mini.absent.add("cityscapes/leftImg8bit/train/aachen_000000_000999_leftImg8bit.png")
    for split, content in jsons.items():
        mini.text(f"cityscapes/gtFine/cityscapes_panoptic_{split}.json", json.dumps(content))
    return mini


HQSEG = {
    "DIS5K/DIS-TR/im": "DIS5K/DIS-TR/gt",
    "thin_object_detection/ThinObject5K/images_train": "thin_object_detection/ThinObject5K/masks_train",
    "cascade_psp/fss_all": "cascade_psp/fss_all",
    "cascade_psp/DUTS-TR": "cascade_psp/DUTS-TR",
    "cascade_psp/DUTS-TE": "cascade_psp/DUTS-TE",
    "cascade_psp/ecssd": "cascade_psp/ecssd",
    "cascade_psp/MSRA_10K": "cascade_psp/MSRA_10K",
}


def soft(mask: np.ndarray, edge: np.ndarray = RING) -> np.ndarray:
    """A grey mask: 255 inside, 90 on the ring around, as matting tools leave it."""
    return np.where(mask, 255, np.where(edge, 90, 0)).astype(np.uint8)


def interactive(root: Path, objects: str = "all") -> Mini:
    mini = Mini(root)
    for place, (images, masks) in enumerate(HQSEG.items()):
        name = mini.image(f"{images}/{place:03d}.jpg", place, grey=place == 3)
        mini.label(f"{masks}/{place:03d}.png", soft(LEFT if place % 2 else RIGHT))
        mini.objects[name] = LEFT if place % 2 else RIGHT
    mini.bare.add(mini.image("cascade_psp/DUTS-TR/bare.jpg", 8))
    mini.label("cascade_psp/DUTS-TR/bare.png", soft(NOTHING, NOTHING))
    mini.label("DIS5K/DIS-TR/gt/gone.png", soft(LEFT))
    mini.absent.add("DIS5K/DIS-TR/im/gone.png")
    mini.untouched.add(mini.image("DIS5K/DIS-VD/im/v.jpg", 9))
    mini.label("DIS5K/DIS-VD/gt/v.png", soft(LEFT))
    return mini


def remote(root: Path, objects: str = "all") -> Mini:
    """NWPU as RSPrompter prepares it, WHU with label images, SSDD with merged masks."""
    mini = Mini(root)
    corners = (12, 10, 44, 40)
    numbers = {"train": (1, 2, 3), "val": (4,)}
    for split, images in numbers.items():
        content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "airplane", "supercategory": "x"}]}
        for number in images:
            name = f"NWPU/imgs/{number:03d}.jpg"
            content["images"].append({"id": number, "file_name": f"{number:03d}.jpg", "height": HEIGHT, "width": WIDTH})
            if number == 3:
                mini.absent.add(name)
                continue
            mini.image(name, number)
            if number != 2:
                content["annotations"].append(
                    {
                        "id": number,
                        "image_id": number,
                        "category_id": 1,
                        "iscrowd": 0,
                        "area": 9,
                        "bbox": [0, 0, 9, 9],
                        "segmentation": [polygon(*corners)],
                    }
                )
            if split == "val":
                mini.untouched.add(name)
            elif number == 2:
                mini.bare.add(name)
            else:
                mini.objects[name] = box(*corners)
        mini.text(f"NWPU/annotations/NWPU_instances_{split}.json", json.dumps(content))
    for split in ("train", "test"):
        name = mini.image(f"WHU/imgs/{split}/image/0.tif", 5)
        mini.label(f"WHU/imgs/{split}/label/0.tif", soft(RIGHT, NOTHING))
        if split == "test":
            mini.untouched.add(name)
        else:
            mini.objects[name] = RIGHT
    name = mini.image("SSDD/imgs/000001.jpg", 6, grey=True)
    mini.label("SSDD/masks/000001.png", soft(SMALL, NOTHING))
    mini.objects[name] = SMALL
    return mini


def medical(root: Path, objects: str = "all") -> Mini:
    """Kvasir's masks are JPEG files; the X-rays are grey and their masks end in _mask."""
    mini = Mini(root)
    name = mini.image("Lung/images/CHNCXR_0001_0.png", 0, grey=True)
    mini.label("Lung/masks/CHNCXR_0001_0_mask.png", soft(LEFT | RIGHT, NOTHING))
    mini.objects[name] = LEFT | RIGHT
    mini.bare.add(mini.image("Lung/images/CHNCXR_0002_0.png", 1, grey=True))
    name = mini.image("Kvasir-SEG/images/cju0qkwl35piu0993l0dewei2.jpg", 2)
    path = mini.label(
        "Kvasir-SEG/masks/cju0qkwl35piu0993l0dewei2.jpg", np.dstack([soft(RIGHT, NOTHING)] * 3), quality=95
    )
    mini.objects[name] = np.asarray(Pillow.open(root / path).convert("L")) > 127
    mini.label("Kvasir-SEG/masks/gone.jpg", np.dstack([soft(RIGHT, NOTHING)] * 3))
    mini.absent.add("Kvasir-SEG/images/gone.jpg")
    return mini


def camvid(root: Path, objects: str = "all") -> Mini:
    """Class 0 is the sky, so it is an object like any other; 255 is none."""
    mini = Mini(root)
    maps = {
        "0001TP_006690": class_map(255, (LEFT, 0), (RIGHT, 3)),
        "0001TP_006720": class_map(1, (SMALL, 255)),
        "0001TP_006750": class_map(255),
    }
    for place, (stem, values) in enumerate(maps.items()):
        name = mini.image(f"camvid/images/train/{stem}.jpg", place)
        mini.label(f"camvid/labels/train/{stem}.png", values)
        if (values != 255).any():
            mini.objects[name] = values != 255
        else:
            mini.bare.add(name)
    mini.label("camvid/labels/train/gone.png", class_map(1))
    mini.absent.add("camvid/images/train/gone.png")
    for split, place in (("val", 4), ("test", 5)):
        mini.untouched.add(mini.image(f"camvid/images/{split}/{split}.jpg", place))
        mini.label(f"camvid/labels/{split}/{split}.png", class_map(4, (LEFT, 10)))
    return mini


def carparts(root: Path, objects: str = "all") -> Mini:
    """Outlines overlap; the object is their union."""
    mini = Mini(root)
    hood, wheel = (10, 8, 50, 40), (40, 30, 70, 60)
    images = {"trainingset": {1: (hood, wheel), 2: (), 3: (wheel,)}, "testset": {401: (hood,)}}
    for folder, cars in images.items():
        content: dict = {"images": [], "annotations": []}
        content["categories"] = [{"id": number, "name": f"part {number}"} for number in range(1, 20)]
        for number, parts in cars.items():
            file = f"car{number}.jpg"
            content["images"].append({"id": number, "file_name": file, "height": HEIGHT, "width": WIDTH})
            for corners in parts:
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": number,
                        "category_id": 14 if corners is hood else 19,
                        "iscrowd": False,
                        "bbox": [corners[0], corners[1], 9, 9],
                        "segmentation": [polygon(*corners)],
                    }
                )
            name = mini.image(f"carparts/{folder}/JPEGImages/{file}", number)
            if folder == "testset":
                mini.untouched.add(name)
            elif parts:
                mini.objects[name] = np.any([box(*corners) for corners in parts], axis=0)
            else:
                mini.bare.add(name)
        if folder == "trainingset":
            content["images"].append({"id": 99, "file_name": "gone.jpg", "height": HEIGHT, "width": WIDTH})
            mini.absent.add(f"carparts/{folder}/JPEGImages/gone.jpg")
        mini.text(f"carparts/{folder}/annotations.json", json.dumps(content))
    return mini


def ccp(root: Path, objects: str = "all") -> Mini:
    mini = Mini(root)
    maps = {"0001": class_map(0, (LEFT, 41), (RIGHT, 58)), "0002": class_map(0), "0003": class_map(19, (SMALL, 0))}
    for place, (stem, values) in enumerate(maps.items()):
        name = mini.image(f"ccp/images/train/{stem}.jpg", place)
        mini.label(f"ccp/labels/train/{stem}.png", values)
        if values.any():
            mini.objects[name] = values != 0
        else:
            mini.bare.add(name)
    mini.label("ccp/labels/train/gone.png", class_map(0, (LEFT, 41)))
    mini.absent.add("ccp/images/train/gone.png")
    mini.untouched.add(mini.image("ccp/images/val/0007.jpg", 4))
    mini.label("ccp/labels/val/0007.png", class_map(0, (LEFT, 14)))
    mini.text("ccp/classes.txt", "0 null\n")
    return mini


BUILDERS: dict[str, Callable[..., Mini]] = {
    builder.__name__: builder
    for builder in (pascal, ade20k, coco, cityscapes, interactive, remote, medical, camvid, carparts, ccp)
}
