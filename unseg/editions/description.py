"""`unseg-edition.json` says what an edition is.

It lies beside the manifest of its images and the record of what was carried over.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unseg.data.edition_layout import Located
from unseg.editions.carried import Carried
from unseg.editions.options import EditionSettings
from unseg.errors import UserError
from unseg.protecting.manifest import EDITION, Manifest, cannot_go_on, relative
from unseg.storage.files import read_text, sha256_of, sync_folder, write_bytes
from unseg.storage.locks import Held
from unseg.storage.settings_diff import differences

FORMAT = 1
ANEW = "remove it: the command that made the edition writes it anew"
SAME = ("dataset", "split", "objects", "names", "image_format", "budget", "region")  # settings that two runs must share
VARIABLES = {  # what a user sets them by
    "split": "SPLIT",
    "objects": "OBJECTS",
    "names": "NAMES",
    "image_format": "FORMAT",
    "budget.object": "EPSILON",
    "budget.background": "BACKGROUND_EPSILON",
    "region": "REGION",
}


def describe(settings: EditionSettings, places: Sequence[Located]) -> dict[str, Any]:
    """Returns what is known of an edition before its images are made.

    sets: each with the annotations that its objects come from.
    """
    return {
        "edition": FORMAT,
        "dataset": settings.row.name,
        "title": settings.row.title,
        "split": settings.split,
        "root": relative(settings.root, settings.out),
        "sets": {
            place.set.name: {
                "annotations": place.source.kind,
                "format": place.source.format,
                "images": place.relative(place.source.images),
                "from": place.relative(place.source.annotations),
            }
            for place in places
        },
        "objects": settings.objects,
        "rule": asdict(settings.rule),
        "budget": {"object": settings.budget.object, "background": settings.budget.background},
        **({} if settings.region == "mask" else {"region": settings.region}),
        "names": settings.names,
        "image_format": settings.format,
    }


def check_same(description: dict[str, Any], earlier: dict[str, Any] | None, out: Path) -> None:
    """Raises UserError where the folder holds another edition: of another data set, or made with other settings."""
    if earlier is None:
        return
    before, now = ({name: side.get(name) for name in SAME} for side in (earlier, description))
    told = "; ".join(differences(before, now, words=VARIABLES))
    if told:
        raise UserError(f"OUT={out}: holds another edition ({told}); give another folder")


def write_edition(
    out: Path,
    description: dict[str, Any],
    earlier: dict[str, Any] | None,
    manifest: Manifest,
    carried: Sequence[Carried],
    complete: bool,
    held: Held,
) -> None:
    """Writes the description with its counts; leaves a file alone that says so already.

    complete: whether annotations came along. held: the folder as the run has locked it. Sets that earlier runs into the
    folder made stay described.
    """
    before = earlier or {}
    sets = {**before.get("sets", {}), **description["sets"]}
    tried = _tried(before)
    tried = (
        tried - set(description["sets"]) if complete else tried | (description["sets"].keys() - before.get("sets", {}))
    )
    content = {
        **description,
        "sets": dict(sorted(sets.items())),
        "complete": not tried,
        **({"tried": sorted(tried)} if tried else {}),
        **_counts(manifest, carried),
        "rewritten": {line.name: line.sha256 for line in carried if line.how == "rewritten"},
    }
    data = (json.dumps(content, indent=1) + "\n").encode()
    path = out / EDITION
    try:
        held.check()
        if sha256_of(path) != hashlib.sha256(data).hexdigest():
            write_bytes(path, data, durable=True)
            sync_folder(out)
            held.check()
    except OSError as error:
        raise cannot_go_on(out, error) from error


def _tried(edition: Mapping[str, Any]) -> set[str]:
    """Returns the sets of an edition of which a limited run made some images alone."""
    told = edition.get("tried", [] if edition.get("complete", True) else list(edition.get("sets", ())))
    return {name for name in told if isinstance(name, str)} if isinstance(told, list) else set(edition.get("sets", ()))


def not_complete(edition: Mapping[str, Any]) -> str | None:
    """Returns what to say of an edition of which a part was only tried; None where all of it is there."""
    tried = sorted(_tried(edition))
    if not tried:
        return None
    what = "which brings no annotations and perhaps not all images"
    return f"{', '.join(tried)}: made with LIMIT, {what}; run it again without LIMIT"


def is_described(edition: dict[str, Any], manifest: Manifest, carried: Iterable[Carried]) -> bool:
    """Returns whether a description was written after the last change of manifest and record.

    A run that is cut off leaves the description of an earlier run.
    """
    counts = _counts(manifest, carried)
    return {name: edition.get(name) for name in counts} == counts


def _counts(manifest: Manifest, carried: Iterable[Carried]) -> dict[str, dict[str, int]]:
    return {
        "images": dict(sorted(Counter(entry.status for entry in manifest.entries.values()).items())),
        "carried": dict(sorted(Counter(line.how for line in carried).items())),
    }


def read_edition(out: Path) -> dict[str, Any] | None:
    """Returns the description of an edition, None where the folder holds none."""
    path = out / EDITION
    try:
        if path.is_symlink():
            raise UserError(f"{path}: is a link, which is not followed")
        content = json.loads(read_text(path))
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise UserError(f"{out}: is no folder; give another one") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not the description of an edition ({str(error)[:100]}); {ANEW}") from error
    if not _is_description(content):
        raise UserError(f"{path}: not the description of an edition that this version reads; {ANEW}")
    return content


def _is_description(content: Any) -> bool:
    if not isinstance(content, dict) or content.get("edition") != FORMAT or not isinstance(content.get("sets"), dict):
        return False
    return all(isinstance(value, dict) for value in content["sets"].values()) and all(
        isinstance(content.get(name), str) for name in ("dataset", "split", "root")
    )
