"""The data sets that have editions: where each keeps images and annotations, what its object is, and its budget.

One frozen row a data set, in the folders that its own publication or the evaluators' preparation gives it: PASCAL VOC's
development kit, Mask2Former's datasets/README.md (ADE20K, COCO, Cityscapes), HQ-SAM (interactive), RSPrompter and the
sets' own releases (remote), Kvasir-SEG and the chest X-rays of Shenzhen and Montgomery (medical); CamVid in SegNet's
eleven classes, Car Parts and CCP, which `unseg bench` measures on. Nothing is read here but names.
"""

from __future__ import annotations

from unseg.data.catalog import HQSEG_TRAIN, HQSEG_VALIDATION, PairedSet
from unseg.data.edition_layout import EditionRow, EditionSet, Source
from unseg.errors import UserError
from unseg.method.config import Budget

READER = "edition"  # what a manifest calls the annotations of an edition, which may be of several formats

# The 100 of ADE20K's 150 classes that its instance benchmark counts (Mask2Former's ids, from 0).
# fmt: off
ADE20K_INSTANCES = (
    7, 8, 10, 12, 14, 15, 18, 19, 20, 22, 23, 24, 27, 30, 31, 32, 33, 35, 36, 37, 38, 39, 41, 42, 43, 44, 45,
    47, 49, 50, 53, 55, 56, 57, 58, 62, 64, 65, 66, 67, 69, 70, 71, 72, 73, 74, 75, 76, 78, 80, 81, 82, 83, 85,
    86, 87, 88, 89, 90, 92, 93, 95, 97, 98, 102, 103, 104, 107, 108, 110, 111, 112, 115, 116, 118, 119, 120,
    121, 123, 124, 125, 126, 127, 129, 130, 132, 133, 134, 135, 136, 137, 138, 139, 142, 143, 144, 146, 147,
    148, 149,
)
# fmt: on

VOC_LISTS, VOC_IMAGES = "ImageSets/Segmentation/{split}.txt", "JPEGImages"

PASCAL = EditionRow(
    "pascal",
    "Pascal VOC 2012",
    ("VOCdevkit/VOC2012", "VOC2012", ""),
    (
        EditionSet(
            "VOC2012",
            "Pascal VOC 2012",
            (
                Source(
                    "masks",
                    "index",
                    VOC_IMAGES,
                    "SegmentationClass",
                    listing=VOC_LISTS,
                    splits=("train", "val", "trainval"),
                ),
                Source("masks", "index", VOC_IMAGES, "SegmentationClassAug", listing=VOC_LISTS, splits=("train_aug",)),
            ),
            ("ImageSets/Segmentation", "SegmentationClass", "SegmentationClassAug", "SegmentationObject"),
            count=1_464,
        ),
    ),
    "JPEGImages, SegmentationClass and ImageSets/Segmentation in VOCdevkit/VOC2012; for SPLIT=train_aug also"
    " SegmentationClassAug and ImageSets/Segmentation/train_aug.txt",
    {name: name for name in ("train", "val", "trainval", "train_aug")},
    ("val",),
    multi=(1, 2, 3, 4, 5),
)

ADE20K = EditionRow(
    "ade20k",
    "ADE20K, SceneParse150",
    ("ADEChallengeData2016", ""),
    (
        EditionSet(
            "ADE20K",
            "ADE20K, SceneParse150",
            (Source("masks", "index", "images/{folder}", "annotations_detectron2/{folder}"),),
            (
                "annotations/{folder}",
                "annotations_instance/{folder}",
                "ade20k_panoptic_{split}",
                "ade20k_panoptic_{split}.json",
                "ade20k_instance_{split}.json",
                "objectInfo150.txt",
                "sceneCategories.txt",
            ),
            count=20_210,
        ),
    ),
    "images/training and annotations_detectron2/training (Mask2Former's prepare_ade20k_sem_seg.py) in"
    " ADEChallengeData2016",
    {"train": "training", "val": "validation"},
    ("val",),
    multi=ADE20K_INSTANCES,
    background_label=None,
)

COCO = EditionRow(
    "coco",
    "COCO 2017",
    ("coco", ""),
    (
        EditionSet(
            "COCO",
            "COCO 2017",
            (
                Source(
                    "panoptic",
                    "coco-panoptic",
                    "{split}2017",
                    "annotations/panoptic_{split}2017.json",
                    "panoptic_{split}2017",
                ),
                Source("instances", "coco", "{split}2017", "annotations/instances_{split}2017.json", by_option=True),
            ),
            (
                "annotations/panoptic_{split}2017.json",
                "panoptic_{split}2017",
                "panoptic_semseg_{split}2017",
                "annotations/instances_{split}2017.json",
            ),
            count=118_287,
        ),
    ),
    "train2017, annotations/panoptic_train2017.json and panoptic_train2017 in coco",
    {"train": "train", "val": "val"},
    ("val",),
    multi="things",
    background_label=None,
)

CITYSCAPES = EditionRow(
    "cityscapes",
    "Cityscapes",
    ("cityscapes", ""),
    (
        EditionSet(
            "Cityscapes",
            "Cityscapes, fine annotations",
            (
                Source(
                    "panoptic",
                    "cityscapes-panoptic",
                    "leftImg8bit/{split}",
                    "gtFine/cityscapes_panoptic_{split}.json",
                    "gtFine/cityscapes_panoptic_{split}",
                ),
                Source("labelIds", "cityscapes", "leftImg8bit/{split}", "gtFine/{split}", by_option=True),
            ),
            ("gtFine/{split}", "gtFine/cityscapes_panoptic_{split}.json", "gtFine/cityscapes_panoptic_{split}"),
            count=2_975,
        ),
    ),
    "leftImg8bit/train, gtFine/cityscapes_panoptic_train.json and gtFine/cityscapes_panoptic_train (cityscapesScripts'"
    " createPanopticImgs.py) in cityscapes",
    {"train": "train", "val": "val"},
    ("val",),
    multi="things",
    background_label=None,
)


def _paired(row: PairedSet) -> EditionSet:
    return EditionSet(
        row.name,
        row.title,
        (Source("masks", "binary", row.images, row.masks),),
        (),
        row.role == "validation",
        row.count,
    )


INTERACTIVE = EditionRow(
    "interactive",
    "HQSeg-44K",
    ("", "data"),
    tuple(map(_paired, (*HQSEG_TRAIN, *HQSEG_VALIDATION))),
    "HQSeg-44K's folders as in data/README.md",
    classes=False,
)

REMOTE = EditionRow(
    "remote",
    "NWPU VHR-10, WHU building, SSDD",
    ("",),
    (
        EditionSet(
            "NWPU",
            "NWPU VHR-10",
            (
                Source("json", "coco", "NWPU/imgs", "NWPU/annotations/NWPU_instances_{split}.json", named_only=True),
                Source("masks", "binary", "NWPU/imgs", "NWPU/masks"),
                Source("json", "coco", "VHR-10/NWPU VHR-10 dataset/positive image set", "VHR-10/annotations.json"),
                Source("masks", "binary", "NWPU VHR-10 dataset/positive image set", "NWPU VHR-10 dataset/masks"),
            ),
            ("NWPU/annotations", "VHR-10/NWPU VHR-10 dataset/ground truth", "NWPU VHR-10 dataset/ground truth"),
        ),
        EditionSet(
            "WHU",
            "WHU building, aerial",
            (
                Source("masks", "binary", "WHU/imgs/{split}/image", "WHU/imgs/{split}/label"),
                Source("masks", "binary", "WHU/images/{split}/image", "WHU/images/{split}/label"),
                Source("masks", "binary", "WHU/{split}/image", "WHU/{split}/label"),
                Source("json", "coco", "WHU/imgs/{split}/image", "WHU/annotations/WHU_building_{split}.json"),
                Source("json", "coco", "WHU/images/{split}/image", "WHU/annotations/WHU_building_{split}.json"),
            ),
            ("WHU/annotations/WHU_building_{split}.json",),
        ),
        EditionSet(
            "SSDD",
            "SSDD",
            (
                Source("json", "coco", "SSDD/imgs", "SSDD/annotations/SSDD_instances_{split}.json", named_only=True),
                Source("masks", "binary", "SSDD/imgs", "SSDD/masks"),
                Source(
                    "masks",
                    "binary",
                    "Official-SSDD-OPEN/PSeg_SSDD/voc_style/JPEGImages_{split}",
                    "Official-SSDD-OPEN/PSeg_SSDD/voc_style/JPEGImages_PSeg_GT_Mask",
                ),
            ),
            ("SSDD/annotations", "Official-SSDD-OPEN/PSeg_SSDD/voc_style/Annotations_{split}"),
        ),
    ),
    "NWPU/imgs, WHU/imgs/train/image and SSDD/imgs, with masks in NWPU/masks, WHU/imgs/train/label, SSDD/masks or"
    " RSPrompter's json in NWPU/annotations, WHU/annotations, SSDD/annotations; or the one that SET names",
    {"train": "train", "val": "val", "test": "test"},
    ("val", "test"),
    classes=False,
)

MEDICAL = EditionRow(
    "medical",
    "chest X-rays and Kvasir-SEG",
    ("",),
    (
        EditionSet(
            "Lung",
            "chest X-rays with lung masks",
            (
                Source("masks", "binary", "Lung/images", "Lung/masks", mask_endings=("", "_mask")),
                Source(
                    "masks",
                    "binary",
                    "Lung Segmentation/CXR_png",
                    "Lung Segmentation/masks",
                    mask_endings=("", "_mask"),
                ),
            ),
        ),
        EditionSet(
            "Kvasir", "Kvasir-SEG", (Source("masks", "binary", "Kvasir-SEG/images", "Kvasir-SEG/masks"),), count=1_000
        ),
    ),
    "Lung/images with Lung/masks, and Kvasir-SEG/images with Kvasir-SEG/masks; or the one that SET names",
    classes=False,
    budget=Budget(4, 1),
)

CAMVID = EditionRow(
    "camvid",
    "CamVid, 11 classes",
    ("camvid", ""),
    (
        EditionSet(
            "CamVid", "CamVid, 11 classes", (Source("masks", "index", "images/{split}", "labels/{split}"),), count=367
        ),
    ),
    "images/train and labels/train (class ids 0 to 10, 255 unlabelled) in camvid",
    {"train": "train", "val": "val", "test": "test"},
    ("val", "test"),
    background_label=None,
)

CARPARTS = EditionRow(
    "carparts",
    "Car Parts Segmentation",
    ("carparts", ""),
    (
        EditionSet(
            "CarParts",
            "Car Parts Segmentation",
            (Source("json", "coco", "{folder}/JPEGImages", "{folder}/annotations.json"),),
            count=400,
        ),
    ),
    "trainingset/JPEGImages and trainingset/annotations.json in carparts",
    {"train": "trainingset", "test": "testset"},
    ("test",),
)

CCP = EditionRow(
    "ccp",
    "CCP, clothing co-parsing",
    ("ccp", ""),
    (
        EditionSet(
            "CCP",
            "CCP, clothing co-parsing",
            (Source("masks", "index", "images/{split}", "labels/{split}"),),
            ("classes.txt", "LICENSE"),
            count=600,
        ),
    ),
    "images/train and labels/train (the 59 ids of classes.txt, 0 the background) in ccp",
    {"train": "train", "val": "val"},
    ("val",),
)

EDITIONS = {
    row.name: row for row in (PASCAL, ADE20K, COCO, CITYSCAPES, INTERACTIVE, REMOTE, MEDICAL, CAMVID, CARPARTS, CCP)
}


def edition_row(name: str) -> EditionRow:
    """Returns the row of a data set; UserError names those there are."""
    if name not in EDITIONS:
        raise UserError(f"unknown data set {name!r}; available: {', '.join(EDITIONS)}")
    return EDITIONS[name]
