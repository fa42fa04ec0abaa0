"""The manifest's first line: under "settings" is what must not differ between runs into one folder, and what a bound is
computed from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from unseg import __version__
from unseg.data.annotations import FORMATS
from unseg.data.edition_catalog import READER
from unseg.data.masks import MASK_KINDS, MaskKind
from unseg.data.object_rule import ObjectRule, is_class_id
from unseg.errors import UserError
from unseg.method.patterns import ABSENCE, book_of
from unseg.protecting.annotation_objects import AnnotationObjects
from unseg.protecting.coding import BACKGROUND, OBJECT_NAME, is_class
from unseg.protecting.manifest import FORMAT, MANIFEST, REMEDY, Manifest
from unseg.protecting.pipeline import Pipeline
from unseg.protecting.setting_words import differing_settings
from unseg.protecting.settings import COMPACT, Region

# Settings that the first line holds only where they have another value than this.
WRITTEN_IF_OTHER = {
    "names": "suffix",
    "precision": "float32",
    "attention": "auto",
    "compile": False,
    "png_level": 1,
    "refined": False,
    "bands": None,
}
CODES = "codes"  # what settings call noise of patterns
MASK_RULE = {"kind", "objects", "ignore_label", "background_label"}


def header_of(pipeline: Pipeline) -> dict[str, Any]:
    """Returns the first line of a run's manifest, as JSON holds it."""
    settings, source, objects = pipeline.settings, pipeline.source, pipeline.objects
    header = {
        "format": FORMAT,
        "unseg": __version__,
        "settings": {
            "object_budget": float(settings.budget.object),
            "background_budget": source.background_budget,
            **({} if source.generator is None else {"generator": source.generator}),
            "region": settings.region,
            "format": settings.format,
            "metadata": settings.metadata,
            "prompt": objects.prompt,
            **objects.settings(),
            **source.settings(),
            **_of_later_versions(pipeline),
        },
        **source.description(),
        "device": source.device_type,
        "batch_size": source.batch_size,
    }
    if isinstance(objects, AnnotationObjects):
        header["annotations_format"] = objects.opened.format
    return json.loads(json.dumps(header))


def _of_later_versions(pipeline: Pipeline) -> dict[str, Any]:
    """Returns the settings that the first manifests did not have, where they are not as they were then."""
    settings = pipeline.settings
    compresses = settings.format in ("png", "tiff")
    networks = pipeline.source.generator is not None
    given = {
        "names": settings.names,
        "precision": settings.precision if networks else WRITTEN_IF_OTHER["precision"],
        "bands": None if settings.bands is None else list(settings.bands),
        "png_level": settings.png_level if compresses else WRITTEN_IF_OTHER["png_level"],
    }
    return {name: value for name, value in given.items() if value != WRITTEN_IF_OTHER[name]}


def check_same_settings(header: Mapping[str, Any], earlier: Manifest | None, out: Path) -> None:
    """Raises UserError where images of other settings lie in the folder already: they are not to be mixed."""
    if earlier is None:
        return
    before, now = ({**WRITTEN_IF_OTHER, **line.get("settings", {})} for line in (earlier.header, header))
    if now.get("noise") == CODES:  # no network computes it, though some manifests hold how one would
        before["precision"] = now["precision"]
    if "book" in now and _adds_codes(before.get("codes"), now.get("codes")):
        before["codes"] = now["codes"]
    if (before.get("noise") == CODES) != (now.get("noise") == CODES):
        raise UserError(_other_noise(earlier.header, out))
    changed = list(differing_settings(before, now))
    if changed:
        raise UserError(
            f"--out {out}: holds images made with other settings ({'; '.join(changed)}); give another folder or"
            " remove it"
        )


def _other_noise(header: Mapping[str, Any], out: Path) -> str:
    """Returns what is said where a folder has noise of codes, and now of a network, or the other way round."""
    settings = header.get("settings", {})
    if settings.get("noise") == CODES:
        return (
            f"--out {out}: holds images with noise of codes; leave out --noise and --generator, or give another --out"
        )
    described = header.get("generator")
    name = described.get("name") if isinstance(described, dict) else None
    option = "the same --generator"
    if name == COMPACT:
        option = "--noise tint" if settings.get("prompt") == "classes" else f"--noise {COMPACT}"
    return f"--out {out}: holds images with the noise of a network; give {option}, or another --out"


def _adds_codes(before: Any, now: Any) -> bool:
    """Returns whether codes are those of before, and those of further classes."""
    return isinstance(before, dict) and isinstance(now, dict) and before.items() <= now.items()


# --- reading it: a manifest may come from anyone


@dataclass(frozen=True)
class Recorded:
    """What a bound is computed from, as a manifest's first line says it.

    rule: None where no mask says what the object is. kind: of mask files; None where annotations take their place.
    holds_images: whether the annotations hold the images themselves. format: of the annotations, as it was asked for.
    image_size, mask_size: sides of the network's frame and of its mask prompt, in pixels; 0 where there is no network.
    absent: classes whose code is no noise. calls_weak: whether its version called images weak whose object changed
    little; 0.1 called them protected.
    """

    rule: ObjectRule | None
    kind: MaskKind | None
    holds_images: bool
    format: str
    image_size: int
    mask_size: int
    region: Region
    metadata: str
    absent: frozenset[int] = frozenset()
    calls_weak: bool = True

    @property
    def is_annotated(self) -> bool:
        """Returns whether annotations say what the object is, and not masks or boxes."""
        return self.rule is not None and self.kind is None


def recorded(manifest: Manifest, folder: Path) -> Recorded:
    """Returns what the first line of the manifest in `folder` says; UserError where a value is none of unseg's."""
    settings: Mapping[str, Any] = manifest.header.get("settings", {})
    expected = {**EXPECTED, **(OF_CODES if settings.get("noise") == CODES else {})}
    wrong = [name for name, is_good in expected.items() if not is_good(settings.get(name))]
    if wrong:
        raise UserError(f"{folder / MANIFEST}: not a manifest of unseg (settings: {', '.join(wrong)}); {REMEDY}")
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
        region=settings["region"],
        metadata=settings["metadata"],
        image_size=settings.get("image_size") or 0,
        mask_size=settings.get("mask_size") or 0,
        absent=frozenset(_absent(settings)),
        calls_weak=not _is_of_first_version(manifest.header),
    )


def _is_of_first_version(header: Mapping[str, Any]) -> bool:
    return str(header.get("unseg")).startswith("0.1.")


def note_on_noise(manifest: Manifest) -> str | None:
    """Returns what to say of noise that an older version made, or that holds less than the default; else None."""
    header, settings = manifest.header, manifest.header.get("settings", {})
    if settings.get("noise") == CODES or "book" in settings:  # of a network that takes codes, without the word
        book, now = settings.get("book"), book_of((settings.get("codes") or {}).values()).version
        return None if book == now else f"its codes are of the book {str(book)[:40]}; by default they are of {now}"
    if _generator_name(header) != COMPACT:
        return None
    kind = "--noise tint" if "codes" in settings else "--noise compact"
    note = "noise of codes, the default, holds better where people train"
    if _is_of_first_version(header):
        return f"this is noise of version 0.1, today's {kind}; {note}: protect the originals anew to have it"
    return f"this is noise of a small network ({kind}); {note}"


def _generator_name(header: Mapping[str, Any]) -> Any:
    generator = header.get("generator")
    return generator.get("name") if isinstance(generator, dict) else None


def _absent(settings: Mapping[str, Any]) -> Iterator[int]:
    if "book" in settings:  # else they are the codes of tints, of which none means no noise
        codes: Mapping[str, Any] = settings.get("codes") or {}
        names = (BACKGROUND, OBJECT_NAME)
        yield from (int(label) for label, code in codes.items() if code == ABSENCE and label not in names)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and 0 < value <= 2**16


def _are_labels(rule: Mapping[str, Any]) -> bool:
    return all(rule[name] is None or is_class_id(rule[name]) for name in ("ignore_label", "background_label"))


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_class_id, value))


def _is_mask_rule(value: Any) -> bool:
    """Returns whether a value is None, or what `MaskFiles.settings` writes."""
    if value is None:
        return True
    if not isinstance(value, dict) or value.keys() != MASK_RULE or value["kind"] not in MASK_KINDS:
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


def _is_coded(value: Any) -> bool:
    """Returns whether a value is None, the codes of tints, or what `Coding.as_json` writes of codes."""
    if value is None:
        return True
    return isinstance(value, dict) and all(
        isinstance(code, int) and (label in (BACKGROUND, OBJECT_NAME) or is_class(label))
        for label, code in value.items()
    )


EXPECTED: dict[str, Callable[[Any], bool]] = {
    "mask_rule": _is_mask_rule,
    "annotations": _is_annotated,
    "image_size": _is_size,
    "mask_size": _is_size,
    "codes": _is_coded,
    "region": lambda value: value in ("mask", "published"),
    "metadata": lambda value: value in ("keep", "icc", "none"),
}
OF_CODES: dict[str, Callable[[Any], bool]] = {  # which have no network
    "image_size": lambda value: value is None,
    "mask_size": lambda value: value is None,
    "region": lambda value: value == "mask",
    "codes": lambda value: value is not None and _is_coded(value),
}
