"""Tells which data sets are on disk and what the others lack, for `unseg datasets`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unseg.data.edition_catalog import EDITIONS
from unseg.data.edition_layout import EditionRow, EditionSet, locate, nearest


def survey(root: Path | None) -> list[dict[str, Any]]:
    """Returns every data set as plain values: name, title, command, needs, budget, and each set's state by split.

    found: whether all that the split needs is there; annotations: their kind then; missing: paths relative to the root.
    """
    return [
        {
            "name": row.name,
            "title": row.title,
            "command": f"bash scripts/generate_{row.name}.sh",
            "needs": row.layout,
            "budget": {"object": row.budget.object, "background": row.budget.background},
            "sets": [_state(root, row, set_row, split) for set_row in row.sets for split in (*row.splits,) or ("",)],
        }
        for row in EDITIONS.values()
    ]


def _state(root: Path | None, row: EditionRow, set_row: EditionSet, split: str) -> dict[str, Any]:
    state: dict[str, Any] = {
        "name": set_row.name,
        "title": set_row.title,
        "split": split,
        "role": "evaluation" if set_row.untouched else "protected",
        "images": set_row.count,
    }
    if root is None:
        return {**state, "found": None, "annotations": None, "missing": []}
    kinds = (None, *dict.fromkeys(source.kind for source in set_row.sources))
    place = next(filter(None, (locate(root, row, set_row, split, kind) for kind in kinds)), None)
    if place is not None:
        return {**state, "found": True, "annotations": place.source.kind, "missing": []}
    close = nearest(root, row, set_row, split)
    missing = [] if close is None else [path.relative_to(root).as_posix() for path in close.missing]
    return {**state, "found": False, "annotations": None, "missing": missing}
