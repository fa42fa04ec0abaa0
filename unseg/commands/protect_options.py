"""Options of unseg protect, in the groups that its help shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from unseg.storage.image_limits import MAX_PIXELS

ImagePaths = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="IMAGES...",
        help="Folders (recursive) and image files, or - for standard input. None where --annotations holds the images.",
    ),
]


@dataclass(frozen=True)
class ImageOptions:
    """The images and the place for their protected versions."""

    PANEL: ClassVar[str] = "What is protected"
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for the protected images and the manifest. Of one image also a file, such as b.png, or - for "
            "standard output.",
        ),
    ] = None
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on with images as they come into the folders, until Ctrl-C.")
    ] = False
    max_megapixels: Annotated[float, typer.Option(help="Refuse larger images.")] = MAX_PIXELS / 1e6
    bands: Annotated[
        str | None, typer.Option(help="Bands of GeoTIFF that get noise, such as 1,2,3. Default: all but transparency.")
    ] = None


@dataclass(frozen=True)
class NoiseOptions:
    """The kind of noise, and what decides it."""

    PANEL: ClassVar[str] = "The noise"
    noise: Annotated[
        str | None,
        typer.Option(
            help="codes (patterns by formula, the default), sam (the published method, with --generator), compact (a "
            "small network), or tint (flat colours, one a class)."
        ),
    ] = None
    generator: Annotated[
        str | None,
        typer.Option(help="A network in place of codes: compact (shipped), a weight file, or module:name (your own)."),
    ] = None
    key: Annotated[
        Path | None,
        typer.Option(help="File of the key of codes; the first run makes it. Default: OUT.key, beside --out."),
    ] = None
    codes: Annotated[
        Path | None,
        typer.Option(help="Which class has which code: the manifest of an earlier run, or JSON as in its first line."),
    ] = None
    survive_grey: Annotated[
        bool,
        typer.Option("--survive-grey", help="Codes that are left in copies turned grey; in colour a bit weaker."),
    ] = False
    mask_by_contrast: Annotated[
        bool, typer.Option("--mask-by-contrast", help="Less noise on flat areas, where it is seen.")
    ] = False


@dataclass(frozen=True)
class ObjectOptions:
    """The part of an image that a network is to learn nothing of."""

    PANEL: ClassVar[str] = "What the object is"
    masks: Annotated[
        Path | None,
        typer.Option(
            help="Folder of masks, paired by relative name without suffix; or auto: the foreground that rembg finds, "
            "kept as masks in OUT.masks to be looked at and changed. One of --masks, --annotations, --boxes, --points "
            "and --whole-image says what the object is."
        ),
    ] = None
    auto_model: Annotated[
        str | None,
        typer.Option(
            help="The network of --masks auto: isnet-general-use (the default), u2net, u2net_human_seg (people), "
            "silueta or u2netp (small ones)."
        ),
    ] = None
    mask: Annotated[Path | None, typer.Option(help="The mask of one image, in place of a folder.")] = None
    annotations: Annotated[
        Path | None,
        typer.Option(
            help="Annotations in place of masks, a file or a folder: COCO, panoptic, VOC, Cityscapes, YOLO, LabelMe, "
            "Hugging Face and more; see the manual on annotations."
        ),
    ] = None
    annotations_format: Annotated[str, typer.Option(help="Their format, where it is not the detected one.")] = "auto"
    boxes: Annotated[
        Path | None,
        typer.Option(help='JSON file of boxes, {"relative/name.jpg": [[x1, y1, x2, y2], ...]}, in place of masks.'),
    ] = None
    webdataset: Annotated[
        str | None,
        typer.Option(
            help="IMAGES are tar files (webdataset); masks are their members of this suffix: mask.png, or json."
        ),
    ] = None
    huggingface: Annotated[
        str | None,
        typer.Option(
            help="IMAGES are tables of Hugging Face's datasets (parquet, or a folder of save_to_disk), and tables come "
            "out; masks are in this column (auto: found by its name), or in --masks."
        ),
    ] = None
    whole_image: Annotated[
        bool,
        typer.Option(
            "--whole-image",
            help="In place of masks: noise over the whole image, which cannot keep networks from learning the objects "
            "in it.",
        ),
    ] = False
    refine_boxes: Annotated[
        bool, typer.Option("--refine-boxes", help="The object is what GrabCut finds in each box, not all of it.")
    ] = False
    points: Annotated[
        Path | None,
        typer.Option(
            help='JSON file of points, {"relative/name.jpg": [[ x, y ], ...]}, in place of masks: the object is what '
            'GrabCut finds around them. {"object": [...], "background": [...]} for an image says what is not, too.'
        ),
    ] = None
    objects: Annotated[
        str,
        typer.Option(
            help="What is the object: all; things (or multi), countable ones only; class ids such as 3,4 or 1-5; "
            "by-class: noises that tell classes apart; auto: all, or by-class where classes cover the images."
        ),
    ] = "auto"
    ignore_label: Annotated[int, typer.Option(help="Class id that is never the object; -1: none.")] = 255
    background_label: Annotated[int, typer.Option(help="Class id that `--objects all` leaves out; -1: none.")] = 0
    mask_type: Annotated[
        str,
        typer.Option(
            help="What masks hold: binary (the brighter of two levels is object), soft (above 127 is object), trimap "
            "(all but black is object), index (class ids), or auto."
        ),
    ] = "auto"
    mask_frame: Annotated[
        str,
        typer.Option(
            help="How masks lie where EXIF turns an image: upright, stored (like the file's pixels), or auto: upright, "
            "noted where both fit."
        ),
    ] = "auto"
    fit_masks: Annotated[
        bool,
        typer.Option("--fit-masks", help="Scale masks of another size with the same proportions (nearest pixel)."),
    ] = False
    unmasked: Annotated[
        str,
        typer.Option(
            help="Images without an object: skip (listed, not written), copy (with all metadata), fail, or "
            "whole (protected as with --whole-image)."
        ),
    ] = "skip"


@dataclass(frozen=True)
class ChangeOptions:
    """The bound, and where each part of it holds."""

    PANEL: ClassVar[str] = "How much may change"
    strength: Annotated[
        str | None, typer.Option(help="subtle, standard or strong: --epsilon 4, 8 (the default) or 12.")
    ] = None
    epsilon: Annotated[
        float | None, typer.Option(help="Most that values of the object may change, of 255, in place of --strength.")
    ] = None
    background_epsilon: Annotated[
        float, typer.Option(help="The same for all other pixels, with a network's noise; codes leave them as they are.")
    ] = 2.0
    region: Annotated[
        str,
        typer.Option(
            help="Where --epsilon holds: mask (exactly the object), or published (the 256-pixel mask prompt resized "
            "back)."
        ),
    ] = "mask"


@dataclass(frozen=True)
class FileOptions:
    """The files that are written."""

    PANEL: ClassVar[str] = "Output"
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="png (the default), tiff, webp (lossless, smaller, slower), or jpeg: changes values beyond the "
            "budget, and the run says by how much.",
        ),
    ] = None
    names: Annotated[
        str,
        typer.Option(
            help="png: an output gets its format's suffix. keep: it has exactly its input's name, so that a.jpg holds "
            "a PNG, which programs that go by content read."
        ),
    ] = "png"
    png_level: Annotated[int, typer.Option(help="Compression of PNG and TIFF, 0 to 9.")] = 1
    metadata: Annotated[
        str,
        typer.Option(
            help="What a protected image keeps: icc (its colour profile alone), keep (EXIF and XMP too, with place and "
            "camera), or none. Copies keep all."
        ),
    ] = "icc"
    keep_times: Annotated[bool, typer.Option("--keep-times", help="Give outputs their inputs' time stamps.")] = False
    quality: Annotated[
        bool,
        typer.Option("--quality", help="Measure how much the noise is seen: ΔE2000 and S-CIELAB of objects, and SSIM."),
    ] = False


@dataclass(frozen=True)
class SpeedOptions:
    """Where the network runs, and how many threads and processes share the work."""

    PANEL: ClassVar[str] = "Speed and device"
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto"
    gpus: Annotated[int | None, typer.Option(help="Use so many GPUs, one process each; 0: the CPU.")] = None
    precision: Annotated[
        str,
        typer.Option(
            help="Of generators derived from SAM: float32, or bfloat16, where about one value in a hundred "
            "differs by a grey level or two."
        ),
    ] = "float32"
    batch_size: Annotated[
        int | None,
        typer.Option(help="Images a batch. Default: 1 on a CPU; on a GPU 32, or 8 with generators derived from SAM."),
    ] = None
    workers: Annotated[int | None, typer.Option(help="Threads. Default: the number of cores.")] = None
    processes: Annotated[
        int | None,
        typer.Option(
            help="Processes that share the work; what is written is the same. Default: 1; with --engine ray, as many as"
            " its machines have cores for."
        ),
    ] = None
    shard: Annotated[
        str | None,
        typer.Option(help="One job of several into one --out: plan/8 once, then 1/8 to 8/8, then `unseg merge`."),
    ] = None
    engine: Annotated[
        str | None, typer.Option(help="ray: the machines of a cluster share the work; what is written is the same.")
    ] = None
    ray_address: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of the cluster's head. Default: RAY_ADDRESS, else this machine alone."),
    ] = None


@dataclass(frozen=True)
class TrialOptions:
    """A look at what a run would do."""

    PANEL: ClassVar[str] = "A try first"
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; count, forecast and list problems.")] = (
        False
    )
    limit: Annotated[int | None, typer.Option(help="Only the first so many images, by name: for a try.")] = None
