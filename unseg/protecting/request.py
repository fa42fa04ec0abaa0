"""What a caller asks of one run of `protect`, and which questions contradict each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from unseg.compute.engine import Engine
from unseg.data.object_rule import ObjectRule
from unseg.data.samples import SampleList
from unseg.errors import UserError
from unseg.method.visibility import check_can_measure
from unseg.protecting.generators import AnyGenerator, option_of
from unseg.protecting.open_annotations import OpenAnnotations
from unseg.protecting.opened_containers import Containers
from unseg.protecting.settings import Kind, ProtectSettings
from unseg.protecting.shards import Shard
from unseg.storage.mirror import is_url
from unseg.storage.tar_files import holds_outlines

AUTO = "auto"  # in place of a folder of masks
CANNOT = "which cannot keep networks from learning the objects in it: noise that is alike everywhere marks none of them"


@dataclass(frozen=True)
class Request:
    """One run as it was asked for; the arguments of `unseg.protecting.run.protect`.

    containers: tars or tables that are open already, or whose images the samples are. parts: how many images each shard
    has, or, where there is none, each of the containers; None: equally many.
    """

    inputs: tuple[Path, ...]
    out: Path
    settings: ProtectSettings
    masks: Path | None = None
    mask: Path | None = None
    boxes: Path | None = None
    points: Path | None = None
    refine_boxes: bool = False
    annotations: Path | OpenAnnotations | None = None
    annotations_format: str = "auto"
    samples: SampleList | None = None
    limit: int | None = None
    processes: int = 1
    generator: AnyGenerator | None = None
    key: Path | bytes | None = None
    codes: Path | Mapping[int, int] | None = None
    whole_image: bool = False
    webdataset: str | None = None
    huggingface: str | None = None
    shard: Shard | None = None
    engine: Engine | None = None
    containers: Containers | None = None
    parts: tuple[int, ...] | None = None

    @property
    def records(self) -> Path:
        """Returns the folder of the run's lock and manifest."""
        return self.out if self.shard is None else self.shard.folder(self.out)

    @property
    def places(self) -> dict[str, object]:
        """Returns what says where the objects are, and what codes they have, by name."""
        names = ("masks", "mask", "annotations", "boxes", "points", "codes")
        return {name: getattr(self, name) for name in names}

    @property
    def is_in_stores(self) -> bool:
        """Returns whether the run reads from a store, or writes to one."""
        return any(map(is_url, (*self.inputs, *self.places.values(), self.out)))

    @property
    def holds_containers(self) -> bool:
        """Returns whether the inputs are files of many samples: tars or tables."""
        return self.webdataset is not None or self.huggingface is not None

    @property
    def is_annotated(self) -> bool:
        """Returns whether annotations say what the object is; members of tars with outlines are some, too."""
        return self.annotations is not None or (self.webdataset is not None and holds_outlines(self.webdataset))

    @property
    def finds_masks(self) -> bool:
        """Returns whether the run finds masks itself: their folder is the word auto."""
        return self.masks is not None and str(self.masks) == AUTO

    @property
    def mask_folder(self) -> Path | None:
        """Returns the user's folder of masks; None where there is one mask by itself, or the run finds masks."""
        return None if self.finds_masks else self.masks

    @property
    def mask_root(self) -> Path | None:
        """Returns what the names of the user's masks are relative to, be there a folder of them or one by itself."""
        return self.mask_folder if self.mask is None else self.mask.parent

    @property
    def kind(self) -> Kind:
        """Returns which noise is meant; a generator that was given as an object comes before the settings."""
        return self.settings.kind if self.generator is None else "own"

    @property
    def network(self) -> AnyGenerator:
        """Returns the generator of a noise that needs one."""
        return self.settings.network if self.generator is None else self.generator

    @property
    def option(self) -> str:
        """Returns what a user gave to ask for a network."""
        noise = self.settings.noise
        return option_of(self.network) if noise is None or self.generator is not None else f"--noise {noise}"

    def check(self) -> None:
        """Raises UserError where options contradict each other or one is missing; reads nothing."""
        self._check_sources()
        self._check_rule()
        self._check_codes()
        self._check_parts()
        if self.settings.quality:
            check_can_measure("--quality")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"--limit {self.limit}: give 1 or more")
        self._check_engine()
        if self.processes < 1:
            raise UserError(f"--processes {self.processes}: give 1 or more")

    def _check_sources(self) -> None:
        sources = {
            "--masks": self.masks,
            "--mask": self.mask,
            "--boxes": self.boxes,
            "--points": self.points,
            "--annotations": self.annotations,
            "--whole-image": self.whole_image or None,
            "--webdataset": self.webdataset,
            "--huggingface": None if self.masks is not None else self.huggingface,
        }
        given = [option for option, value in sources.items() if value is not None]
        if self.huggingface is not None and self.webdataset is not None:
            raise UserError("--webdataset and --huggingface: give one of them, IMAGES are tars or tables")
        if len(given) > 1:
            raise UserError(f"{' and '.join(given)}: give one of them, each says what the object is")
        if self.refine_boxes and self.boxes is None:
            raise UserError("--refine-boxes: needs the boxes that it refines; give --boxes")
        if not given:
            raise UserError(
                "what is the object? Give --masks (a folder, or auto), --boxes, --points or --annotations; or"
                f" --whole-image, {CANNOT}"
            )
        if self.settings.auto_model is not None and not self.finds_masks:
            raise UserError(f"--auto-model {self.settings.auto_model}: is for --masks auto; leave it out")
        if not self.inputs and self.samples is None and self.annotations is None:
            raise UserError("no images: name folders or files")

    def _check_parts(self) -> None:
        for what, given in (
            ("--shard", self.shard is not None),
            ("--webdataset", self.webdataset is not None),
            ("--huggingface", self.huggingface is not None),
            ("places in a store", self.is_in_stores),
        ):
            if given and self.finds_masks:
                raise UserError(
                    f"--masks auto: is for folders of this machine, in one run; leave out {what}, or name masks"
                )

    def _check_engine(self) -> None:
        for option, given in (
            ("--shard", self.shard is not None),
            ("--masks auto", self.finds_masks),
            ("a generator that is no file", self.generator is not None),
        ):
            if given and self.engine is not None:
                raise UserError(f"--engine ray: does not go with {option}; leave one of them out")
        if self.engine is not None and self.engine.most is not None and self.engine.most < 1:
            raise UserError(f"--processes {self.engine.most}: give 1 or more")

    def _check_codes(self) -> None:
        for option, given in (("--key", self.key), ("--codes", self.codes)):
            if given is not None and self.kind in ("compact", "tint"):
                raise UserError(f"{option}: is for noise of codes; leave it out, or leave out --noise and --generator")
        if self.kind == "codes" and self.settings.region != "mask":
            raise UserError(
                f"--region {self.settings.region}: follows a network's prompt; leave it out, or name the network with"
                " --generator"
            )

    def _check_rule(self) -> None:
        rule, mask_type = self.settings.rule, self.settings.mask_type
        masked = self.mask_root is not None or (self.holds_containers and not self.is_annotated)
        labelled = masked or self.is_annotated
        if rule.by_class and not labelled:
            raise UserError(
                f"{self.settings.by_class_option}: needs class ids; name the masks' folder with --masks, or give"
                " --annotations"
            )
        if rule.which == "things" and not self.is_annotated:
            raise UserError("--objects things: needs --annotations, of a format that tells things from stuff")
        if rule.which != "all" and not labelled:
            raise UserError("--objects with class ids: needs --masks or --annotations, which say where each class is")
        if mask_type != "auto" and self.is_annotated:
            raise UserError(f"--mask-type {mask_type}: is for --masks; name annotations with --annotations-format")
        if mask_type != "auto" and self.finds_masks:
            raise UserError(f"--mask-type {mask_type}: is for masks of your own, not for --masks auto; leave it out")
        if mask_type != "auto" and not masked:
            raise UserError(f"--mask-type {mask_type}: is for --masks; leave it out")
        usual = ObjectRule()
        for option, label, other in (
            ("--ignore-label", rule.ignore_label, usual.ignore_label),
            ("--background-label", rule.background_label, usual.background_label),
        ):
            if not labelled and label not in (None, other):
                raise UserError(f"{option} {label}: is for --masks and --annotations; leave it out")
        if not masked and (self.settings.fit_masks or self.settings.mask_frame != "auto"):
            option = "--fit-masks" if self.settings.fit_masks else f"--mask-frame {self.settings.mask_frame}"
            raise UserError(f"{option}: is for --masks; leave it out")
