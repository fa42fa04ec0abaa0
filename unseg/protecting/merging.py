"""One manifest of all shards of a run: the one that a single run over all images would have written, to the byte."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unseg.data.annotations.core import first_few
from unseg.data.edition_catalog import READER
from unseg.errors import UserError
from unseg.protecting.execution import Summary
from unseg.protecting.forecast import Forecast
from unseg.protecting.manifest import (
    AGREED,
    MANIFEST,
    SHARDS,
    UNFINISHED,
    Entry,
    Key,
    Manifest,
    cannot_go_on,
    read_manifest,
    write_manifest,
)
from unseg.protecting.planning import NO_ROOT
from unseg.protecting.shards import MOST, PARTS, SHARD, Shard, begun, check_alone
from unseg.storage.files import remove_temporaries
from unseg.storage.locks import LOCK_FILE, FolderLock, Held
from unseg.storage.settings_diff import differences


@dataclass(frozen=True)
class _Part:
    """What one shard wrote. header: without what tells shards from a plain run."""

    shard: Shard
    header: dict[str, Any]
    entries: Mapping[Key, Entry]


def merge(out: str | Path, of_edition: bool = False) -> Summary:
    """Makes one manifest of those of all shards, removes what only shards need, and returns what all of them did.

    A folder that is merged already stays as it is. UserError where a shard is missing, unfinished or of another plan,
    where two speak of one image, and where somebody writes there; nothing is changed then. of_edition: the caller
    brings along what an edition has beside its images.
    """
    out = Path(out)
    _plan_in(out)  # before the folder is locked, which would make it
    with FolderLock(out) as lock:
        check_alone(out, None)
        plan = _plan_in(out)
        if not of_edition and _is_edition(plan):
            raise UserError(f"{out}: is an edition; make it whole with its script and SHARD=merge")
        if AGREED in plan.header:
            plan = _merged(plan, _parts(plan, out))
            try:
                lock.held.check()
                write_manifest(out, plan, finished=True)
                remove_temporaries(out)  # of shards that were killed
            except OSError as error:
                raise cannot_go_on(out, error) from error
        _remove_shards(out, lock.held)
    entries = tuple(plan.entries[key] for key in sorted(plan.entries))
    return Summary(entries, 0, 0.0, Forecast(len(entries), len(entries), 0))


def _plan_in(out: Path) -> Manifest:
    """Returns the manifest of a plan, or one that is merged already; UserError where there is neither."""
    plan = read_manifest(out)
    if plan is None:
        raise UserError(f"{out}: no {MANIFEST} in it; give the --out folder of the shards")
    if AGREED not in plan.header and plan.header.get(UNFINISHED):
        raise UserError(f"{out}: holds a run that was cut off, and not in shards; run the same command again")
    return plan


def _is_edition(plan: Manifest) -> bool:
    annotated = plan.header.get("settings", {}).get("annotations")
    return AGREED in plan.header and isinstance(annotated, dict) and annotated.get("format") == READER


def _parts(plan: Manifest, out: Path) -> list[_Part]:
    """Returns what every shard wrote; UserError names those that are missing, unfinished, or of another plan."""
    agreed = plan.header[AGREED]
    count = agreed.get("count") if isinstance(agreed, dict) else None
    sizes = agreed.get(PARTS) if isinstance(agreed, dict) else None
    if (
        not isinstance(count, int)
        or not 1 <= count <= MOST
        or not isinstance(agreed.get("images"), int)
        or not (sizes is None or _are_sizes(sizes, count))
    ):
        raise UserError(f"{out / MANIFEST}: not a manifest of unseg ({AGREED})")
    shards = [Shard(number, count) for number in range(1, count + 1)]
    strange = sorted({folder.name for folder in begun(out)} - {shard.folder(out).name for shard in shards})
    if strange:
        raise UserError(f"{out / SHARDS}: {first_few(strange)} is no shard of {count}; move it away")
    parts, missing, unfinished = list[_Part](), list[str](), list[str]()
    for shard in shards:
        part = read_manifest(shard.folder(out))
        if part is None:
            missing.append(str(shard))
            continue
        if (part.header.get(AGREED), part.header.get(SHARD)) != (agreed, shard.number):
            raise UserError(f"{shard.folder(out)}: is not the shard {shard} of this plan; run --shard {shard} again")
        if part.header.get(UNFINISHED):
            unfinished.append(str(shard))
        header = {name: value for name, value in part.header.items() if name not in (AGREED, SHARD)}
        parts.append(_Part(shard, header, part.entries))
    for what, named in (("has not run", missing), ("was cut off", unfinished)):
        if named:
            more = f" ({len(named)} of {count}: {first_few(named, 10)})" if len(named) > 1 else ""
            raise UserError(f"{out}: shard {named[0]} {what}{more}; run it, then merge")
    return parts


def _are_sizes(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(isinstance(size, int) for size in value)


def _merged(plan: Manifest, parts: list[_Part]) -> Manifest:
    """Returns the manifest of all; UserError where shards overlap, leave images out, or were made unlike each other."""
    first, entries, of = parts[0], dict(plan.entries), dict[Key, Shard]()
    images, sizes = range(plan.header[AGREED]["images"]), plan.header[AGREED].get(PARTS)
    for part in parts:
        own = len(part.shard.of(images, sizes))
        told_of = sum(root != NO_ROOT for _, root in part.entries)
        if told_of != own and (part.shard.number != 1 or told_of < own):  # 1 also tells what is annotated and not there
            raise UserError(f"shard {part.shard} speaks of {told_of} of its {own} images; run it again")
        told = "; ".join(differences(first.header, part.header))
        if told:
            raise UserError(f"shards {first.shard} and {part.shard} were made with other settings ({told})")
        twice = sorted(part.entries.keys() & of.keys())
        if twice:
            raise UserError(f"shards {of[twice[0]]} and {part.shard} overlap: both speak of {twice[0][0]}")
        of.update(dict.fromkeys(part.entries, part.shard))
        entries.update(part.entries)
    return Manifest(first.header, entries)


def _remove_shards(out: Path, held: Held) -> None:
    """Removes the folders of shards, and nothing in them that a shard did not write."""
    for folder in begun(out):
        held.check()
        try:
            remove_temporaries(folder)
            for name in (MANIFEST, LOCK_FILE):
                (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise cannot_go_on(out, error) from error
        with suppress(OSError):  # something else lies in it, which `unseg verify` tells
            folder.rmdir()
    with suppress(OSError):
        (out / SHARDS).rmdir()
