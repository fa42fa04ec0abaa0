"""One manifest of all shards of a run: the one that a single run over all images would have written, to the byte."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
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
    Manifest,
    by_key,
    cannot_go_on,
    read_manifest,
    spooled_lines,
    write_manifest,
)
from unseg.protecting.planning import NO_ROOT
from unseg.protecting.setting_words import differing_lines
from unseg.protecting.shards import MOST, PARTS, SHARD, Shard, begun, check_alone
from unseg.storage.files import remove_temporaries
from unseg.storage.locks import LOCK_FILE, FolderLock, Held
from unseg.storage.sequences import Made, in_order, order_of


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
            plan = _merged(plan, out)
            try:
                lock.held.check()
                write_manifest(out, plan, finished=True)
                remove_temporaries(out)  # of shards that were killed
            except OSError as error:
                raise cannot_go_on(out, error) from error
        _remove_shards(out, lock.held)
    entries = in_order(plan.entries)
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


def _shards_of(plan: Manifest, out: Path) -> list[Shard]:
    """Returns the shards of a plan; UserError where it is none, or where there are others."""
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
    return shards


def _are_sizes(value: Any, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(isinstance(size, int) for size in value)


def _merged(plan: Manifest, out: Path) -> Manifest:
    """Returns the manifest of all shards, of which memory holds one at a time.

    UserError names shards that are missing, unfinished or of another plan, that overlap, leave images out, or were made
    unlike each other.
    """
    shards = _shards_of(plan, out)
    lines, ends = spooled_lines(in_order(plan.entries)), array("Q")  # ends: where in the lines each shard's end
    earlier, missing, unfinished, faults = len(lines), list[str](), list[str](), list[str]()
    header: dict[str, Any] = {}
    for shard in shards:
        part = read_manifest(shard.folder(out))
        if part is None:
            missing.append(str(shard))
            continue
        if (part.header.get(AGREED), part.header.get(SHARD)) != (plan.header[AGREED], shard.number):
            raise UserError(f"{shard.folder(out)}: is not the shard {shard} of this plan; run --shard {shard} again")
        if part.header.get(UNFINISHED):
            unfinished.append(str(shard))
        own = {name: value for name, value in part.header.items() if name not in (AGREED, SHARD)}
        header = header or own
        faults += _faults(shard, part, own, plan.header[AGREED], header)
        for entry in in_order(part.entries):
            lines.add(entry)
        ends.append(len(lines))
    for what, named in (("has not run", missing), ("was cut off", unfinished)):
        if named:
            more = f" ({len(named)} of {len(shards)}: {first_few(named, 10)})" if len(named) > 1 else ""
            raise UserError(f"{out}: shard {named[0]} {what}{more}; run it, then merge")
    if faults:
        raise UserError(faults[0])
    _check_disjoint(lines[earlier:], [end - earlier for end in ends], shards)
    return Manifest(header, by_key(lines))


def _check_disjoint(lines: Made[Entry], ends: Sequence[int], shards: Sequence[Shard]) -> None:
    """Raises UserError where two shards speak of one image. ends: where in the lines those of each shard end."""
    if len(by_key(lines)) == len(lines):
        return
    order = order_of(lines, lambda entry: entry.key)
    later, name, earlier = min(
        (bisect_right(ends, max(same)), lines[same[0]].input, bisect_right(ends, min(same)))
        for same in pairwise(order)
        if lines[same[0]].key == lines[same[1]].key
    )
    raise UserError(f"shards {shards[earlier]} and {shards[later]} overlap: both speak of {name}")


def _faults(
    shard: Shard, part: Manifest, header: dict[str, Any], agreed: Mapping[str, Any], first: dict[str, Any]
) -> Iterator[str]:
    """Yields what is wrong with a shard by itself. header: its first line as that of a plain run. first: shard 1's."""
    own = len(shard.of(range(agreed["images"]), agreed.get(PARTS)))
    told_of = sum(entry.key[1] != NO_ROOT for entry in part.entries.values())
    if told_of != own and (shard.number != 1 or told_of < own):  # 1 also tells what is annotated and not there
        yield f"shard {shard} speaks of {told_of} of its {own} images; run it again"
    told = "; ".join(differing_lines(first, header))
    if told:
        yield f"shards {Shard(1, shard.count)} and {shard} were made with other settings ({told})"


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
