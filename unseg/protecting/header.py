"""The manifest's first line: under "settings" is what must not differ between runs into one folder, and what a bound is
computed from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from unseg import __version__
from unseg.data.annotations import FORMATS
from unseg.data.edition_catalog import READER
from unseg.data.masks import MaskKind
from unseg.data.object_rule import ObjectRule
from unseg.errors import UserError
from unseg.protecting.manifest import FORMAT, MANIFEST, Manifest
from unseg.protecting.objects import AnnotationObjects
from unseg.protecting.pipeline import Pipeline
from unseg.protecting.protector import Region
from unseg.storage.settings_diff import differences

# Settings that the first line holds only where they have another value than this.
WRITTEN_IF_OTHER = {
    "names": "suffix",
    "precision": "float32",
    "attention": "auto",
    "compile": False,
    "png_level": 1,
    "refined": False,
}
MASK_RULE = {"kind", "objects", "ignore_label", "background_label"}


def header_of(pipeline: Pipeline) -> dict[str, Any]:
    """Returns the first line of a run's manifest, as JSON holds it."""
    settings, loaded, objects = pipeline.settings, pipeline.loaded, pipeline.objects
    header = {
        "format": FORMAT,
        "unseg": __version__,
        "settings": {
            "object_budget": float(settings.budget.object),
            "background_budget": float(settings.budget.background),
            "generator": loaded.sha256,
            "region": settings.region,
            "format": settings.format,
            "metadata": settings.metadata,
            "prompt": objects.prompt,
            **objects.settings(),
            "image_size": loaded.network.image_size,
            "mask_size": loaded.network.mask_size,
            **_codes(pipeline.codes),
            **_of_later_versions(pipeline),
        },
        "generator": {"name": loaded.name, "source": loaded.source, "sha256": loaded.sha256},
        "device": pipeline.protector.device.type,
        "batch_size": pipeline.protector.batch_size,
    }
    if isinstance(objects, AnnotationObjects):
        header["annotations_format"] = objects.opened.format
    return json.loads(json.dumps(header))


def _codes(codes: Mapping[int, int] | None) -> dict[str, Any]:
    if codes is None:
        return {}
    return {"codes": {str(label): code for label, code in sorted(codes.items())}}


def _of_later_versions(pipeline: Pipeline) -> dict[str, Any]:
    """Returns the settings that the first manifests did not have, where they are not as they were then."""
    settings = pipeline.settings
    compresses = settings.format in ("png", "tiff")
    given = {
        "names": settings.names,
        "precision": settings.precision,
        "png_level": settings.png_level if compresses else WRITTEN_IF_OTHER["png_level"],
    }
    return {name: value for name, value in given.items() if value != WRITTEN_IF_OTHER[name]}


def check_same_settings(header: Mapping[str, Any], earlier: Manifest | None, out: Path) -> None:
    """Raises UserError where images of other settings lie in the folder already: they are not to be mixed."""
    if earlier is None:
        return
    before, now = ({**WRITTEN_IF_OTHER, **line.get("settings", {})} for line in (earlier.header, header))
    changed = list(differences(before, now))
    if changed:
        raise UserError(
            f"--out {out}: holds images made with other settings ({'; '.join(changed)}); give another folder or"
            " remove it"
        )


# --- reading it: a manifest may come from anyone


@dataclass(frozen=True)
class Recorded:
    """What a bound is computed from, as a manifest's first line says it.

    rule: None where no mask says what the object is. kind: of mask files; None where annotations take their place.
    holds_images: whether the annotations hold the images themselves. format: of the annotations, as it was asked for.
    image_size, mask_size: sides of the network's frame and of its mask prompt, in pixels.
    """

    rule: ObjectRule | None
    kind: MaskKind | None
    holds_images: bool
    format: str
    image_size: int
    mask_size: int
    region: Region
    metadata: str

    @property
    def is_annotated(self) -> bool:
        """Returns whether annotations say what the object is, and not masks or boxes."""
        return self.rule is not None and self.kind is None


def recorded(manifest: Manifest, folder: Path) -> Recorded:
    """Returns what the first line of the manifest in `folder` says; UserError where a value is none of unseg's."""
    settings: Mapping[str, Any] = manifest.header.get("settings", {})
    wrong = [name for name, is_good in EXPECTED.items() if not is_good(settings.get(name))]
    if wrong:
        raise UserError(f"{folder / MANIFEST}: not a manifest of unseg (settings: {', '.join(wrong)})")
    masks, annotated = settings.get("mask_rule"), settings.get("annotations")
    rule = kind = None
    if annotated is not None:
        which = annotated["rule"]["which"]
        rule = ObjectRule(**{**annotated["rule"], "which": which if isinstance(which, str) else tuple(which)})
    elif masks is not None:
        labels = {name: masks[name] for name in ("ignore_label", "background_label")}
        rule = ObjectRule("all" if masks["objects"] is None else tuple(masks["objects"]), **labels)
        kind = masks["kind"]
    return Recorded(
        rule,
        kind,
        holds_images=bool(annotated and annotated["holds_images"]),
        format=manifest.header.get("annotations_format", "auto"),
        **{name: settings[name] for name in ("image_size", "mask_size", "region", "metadata")},
    )


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and 0 < value <= 2**16


def _is_id(value: Any) -> bool:
    """Returns whether a value can be a class id: a 32-bit number."""
    return isinstance(value, int) and abs(value) < 2**31


def _are_labels(rule: Mapping[str, Any]) -> bool:
    return all(rule[name] is None or _is_id(rule[name]) for name in ("ignore_label", "background_label"))


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_id, value))


def _is_mask_rule(value: Any) -> bool:
    """Returns whether a value is None, or what `MaskFiles.settings` writes."""
    if value is None:
        return True
    if not isinstance(value, dict) or value.keys() != MASK_RULE or value["kind"] not in ("binary", "index"):
        return False
    objects = value["objects"]
    return _are_labels(value) and (objects is None or (value["kind"] == "index" and _are_ids(objects)))


def _is_annotated(value: Any) -> bool:
    """Returns whether a value is None, or what `AnnotationObjects.settings` writes."""
    if value is None:
        return True
    if not isinstance(value, dict) or value.get("format") not in (*FORMATS, READER):
        return False
    rule = value.get("rule")
    if not isinstance(value.get("holds_images"), bool) or not isinstance(rule, dict):
        return False
    if rule.keys() != {field.name for field in fields(ObjectRule)} or not isinstance(rule["by_class"], bool):
        return False
    return _are_labels(rule) and (rule["which"] in ("all", "things") or _are_ids(rule["which"]))


EXPECTED: dict[str, Callable[[Any], bool]] = {
    "mask_rule": _is_mask_rule,
    "annotations": _is_annotated,
    "image_size": _is_size,
    "mask_size": _is_size,
    "region": lambda value: value in ("mask", "published"),
    "metadata": lambda value: value in ("keep", "icc", "none"),
}
