"""How two runs of `protect` differ, in the words of its options where a manifest has others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from unseg.storage.settings_diff import differences

SETTINGS = "settings"  # in a manifest's first line
# From the path of a value below "settings" to the option that a user gives.
OPTIONS = {
    "object_budget": "--epsilon",
    "background_budget": "--background-epsilon",
    "region": "--region",
    "format": "--format",
    "metadata": "--metadata",
    "names": "--names",
    "precision": "--precision",
    "png_level": "--png-level",
    "refined": "--refine-boxes",
    "bands": "--bands",
    "noise": "--noise",
    "mask_by_contrast": "--mask-by-contrast",
    "survive_grey": "--survive-grey",
    "mask_rule.kind": "--mask-type",
    "mask_rule.objects": "--objects",
    "mask_rule.ignore_label": "--ignore-label",
    "mask_rule.background_label": "--background-label",
    "annotations.format": "--annotations-format",
    "annotations.rule.which": "--objects",
    "annotations.rule.by_class": "--objects by-class",
    "annotations.rule.ignore_label": "--ignore-label",
    "annotations.rule.background_label": "--background-label",
}
# The same in a whole line; what shards agree on has some that change no bytes, too.
_IN_LINE = {
    **{f"{SETTINGS}.{path}": option for path, option in OPTIONS.items()},
    "options.unmasked": "--unmasked",
    "options.quality": "--quality",
}
_IF_NOT_WRITTEN = {"mask_by_contrast": False, "survive_grey": False}
_NAMES = {"suffix": "png"}  # of --names: as settings have it, and as the option has it


def differing_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yields a phrase for each setting that differs between two runs. before, now: what their lines hold below
    "settings"."""
    return differences(_as_given(before), _as_given(now), words=OPTIONS)


def differing_lines(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yields the same for whole first lines of manifests."""
    return differences(_line_as_given(before), _line_as_given(now), words=_IN_LINE)


def _as_given(settings: Mapping[str, Any]) -> dict[str, Any]:
    names, masks = settings.get("names"), settings.get("mask_rule")
    given = {**_IF_NOT_WRITTEN, **settings, **({"names": _NAMES[names]} if names in _NAMES else {})}
    if isinstance(masks, dict) and "objects" in masks:
        given["mask_rule"] = {**masks, "objects": _ids(masks["objects"])}
    return given


def _ids(objects: Any) -> Any:
    """Returns the class ids of a manifest as --objects has them."""
    if objects is None:
        return "all"
    return ",".join(map(str, objects)) if isinstance(objects, list) else objects


def _line_as_given(line: Mapping[str, Any]) -> dict[str, Any]:
    settings = line.get(SETTINGS)
    return {**line, **({SETTINGS: _as_given(settings)} if isinstance(settings, dict) else {})}
