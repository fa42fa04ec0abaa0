"""A run in shards: jobs of an array that fill one output folder without talking to each other.

A plan comes first. It settles the key, the codes and which images there are, and is written as the manifest of a run
that is not finished. Every shard then has a folder of its own in the output, with a lock and a manifest of its own, and
is refused where what it was asked for is not what was planned. `unseg.protecting.merging` makes one manifest of all.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from unseg.errors import UserError
from unseg.protecting.manifest import AGREED, SHARDS, UNFINISHED, Entry, Key, Manifest, lines_of, read_manifest
from unseg.protecting.one_image import Job
from unseg.protecting.setting_words import differing_lines
from unseg.protecting.settings import ProtectSettings
from unseg.storage.locks import holder_of
from unseg.storage.sequences import in_order

T = TypeVar("T")
PLAN = "plan"
PARTS = "parts"  # in what shards agree on: how many images each has, where they are not equally many
SHARD = "shard"  # in the first line of a shard's manifest: its number
MOST = 100_000  # shards
# Settings that change what is written and that a manifest's first line does not hold: shards must share them, too.
SHARED = ("unmasked", "keep_frame", "mask_frame", "fit_masks", "keep_times", "max_megapixels", "quality")
_TEXT = re.compile(r"(plan|\d{1,6})/(\d{1,6})")


@dataclass(frozen=True)
class Shard:
    """One of `count` equal parts of a run's images in the order of their names. number: from 1; 0 is the plan."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str, option: str = "--shard ") -> Shard:
        """Returns the shard that "3/8" or "plan/8" names; UserError for anything else. option: as it stands before."""
        found = _TEXT.fullmatch(text.strip())
        number, count = (0, 0) if found is None else (0 if found[1] == PLAN else int(found[1]), int(found[2]))
        if found is None or not number <= count or not 1 <= count <= MOST or (number == 0 and found[1] != PLAN):
            raise UserError(
                f"{option}{text}: give plan/N once, then 1/N to N/N, with N from 1 to {MOST:,}, such as plan/8 and 3/8"
            )
        return cls(number, count)

    def __str__(self) -> str:
        return f"{self.number or PLAN}/{self.count}"

    @property
    def is_plan(self) -> bool:
        """Returns whether this is the plan, and no part of the work."""
        return self.number == 0

    def folder(self, out: Path) -> Path:
        """Returns where lock and manifest of the shard lie; the plan's are those of the output folder."""
        return out if self.is_plan else out / SHARDS / f"{self.number}-of-{self.count}"

    def of(self, items: Sequence[T], parts: Sequence[int] | None = None) -> Sequence[T]:
        """Returns the shard's part of all items; all of them for the plan. parts: how many each has; None: equally
        many."""
        return items[self.part(len(items), parts)]

    def part(self, count: int, parts: Sequence[int] | None = None) -> slice:
        """Returns which of so many items are the shard's. parts: as for `of`."""
        if self.is_plan:
            return slice(count)
        if parts is not None:
            start = sum(parts[: self.number - 1])
            return slice(start, start + parts[self.number - 1])
        return slice((self.number - 1) * count // self.count, self.number * count // self.count)


# --- what shards agree on


def agreement(
    shard: Shard, jobs: Sequence[Job], settings: ProtectSettings, parts: Sequence[int] | None
) -> dict[str, Any]:
    """Returns what all shards of a run must share besides its first line, as JSON holds it. jobs: of the whole run.

    parts: as for `Shard.of`.
    """
    digest = hashlib.sha256()
    for job in jobs:
        digest.update("\0".join((*job.key, job.planned.output, "")).encode(errors="surrogatepass"))
    options = {name: getattr(settings, name) for name in SHARED}
    agreed = {"count": shard.count, "images": len(jobs), "names": digest.hexdigest(), "options": options}
    return agreed if parts is None else {**agreed, PARTS: list(parts)}


def earlier_manifest(out: Path, shard: Shard | None) -> Manifest | None:
    """Returns what earlier runs and the plan say of a run's images, with the lines that a shard wrote itself.

    UserError where the folder is planned for shards and this is none, and where a shard has no plan, or another one.
    """
    there = read_manifest(out)
    agreed = None if there is None else there.header.get(AGREED)
    if shard is None and agreed is not None:
        raise UserError(
            f"--out {out}: is planned for {_count(agreed)} shards; give --shard, --engine ray if that planned them, or"
            f" another --out; once all shards are done, `unseg merge {out}` makes a plain folder of it"
        )
    if shard is None or shard.is_plan:
        return there
    if there is None or agreed is None:
        raise UserError(
            f"--shard {shard}: nothing in --out {out} says which key, codes and images all shards share; first run the"
            f" same command with --shard plan/{shard.count}, once"
        )
    if _count(agreed) != shard.count:
        raise UserError(f"--shard {shard}: --out {out} is planned for {_count(agreed)} shards; give that number")
    return Manifest(there.header, lines_of(chain(in_order(there.entries), in_order(own_lines(shard, out, agreed)))))


def own_lines(shard: Shard, out: Path, agreed: Any) -> Mapping[Key, Entry]:
    """Returns the lines that a shard wrote itself; UserError where it did so by another plan. agreed: by this one."""
    own = read_manifest(shard.folder(out))
    if own is not None and (own.header.get(AGREED), own.header.get(SHARD)) != (agreed, shard.number):
        raise UserError(f"{shard.folder(out)}: is of another plan than that of --out {out}; remove it")
    return {} if own is None else own.entries


def check_agreed(shard: Shard, header: Mapping[str, Any], earlier: Manifest | None, out: Path) -> None:
    """Raises UserError where a shard would not do what was planned, or a plan not what shards began to do.

    header: the first line of this run, with its agreement.
    """
    if earlier is None or AGREED not in earlier.header or (shard.is_plan and not begun(out)):
        return
    before, now = ({"settings": line.get("settings"), **line[AGREED]} for line in (earlier.header, header))
    told = "; ".join(differing_lines(before, now))
    if told:
        raise UserError(
            f"--shard {shard}: is not what was planned in --out {out} ({told}); give the same command and the same"
            " images to every shard, or plan anew into another --out"
        )


def check_alone(out: Path, shard: Shard | None) -> None:
    """Raises UserError where a shard and a run on the whole folder meet. The caller holds the lock of its own folder.

    Each of the two takes its lock before it looks for the other's, so that at least one of them sees the other.
    """
    others = begun(out) if shard is None or shard.is_plan else [out]
    for folder in others:
        holder = holder_of(folder)
        if holder is not None:
            raise UserError(f"--out {out}: {holder} is writing there ({folder}); wait until it ends")


def begun(out: Path) -> list[Path]:
    """Returns the folders of shards in an output folder, sorted by name."""
    folder = out / SHARDS
    if os.path.islink(folder) or not os.path.isdir(folder):
        return []
    return sorted(folder / name for name in os.listdir(folder) if os.path.isdir(folder / name))


def is_done(shard: Shard, out: Path, plan: Mapping[str, Any]) -> bool:
    """Returns whether a shard came to its end, as its mark tells: its manifest. plan: the first line of its plan."""
    own = read_manifest(shard.folder(out))
    return own is not None and not own.header.get(UNFINISHED) and own.header.get(AGREED) == plan.get(AGREED)


def refuse_unmerged(manifest: Manifest, folder: Path) -> None:
    """Raises UserError where the shards of a folder are not merged."""
    if AGREED in manifest.header and manifest.header.get(UNFINISHED):
        raise UserError(
            f"{folder}: its {_count(manifest.header[AGREED])} shards are not merged; run `unseg merge {folder}`"
        )


def _count(agreed: Any) -> Any:
    """Returns the number of shards that a plan says; a manifest may come from anyone."""
    return agreed.get("count") if isinstance(agreed, dict) else None
