"""The proof on an engine: actors compare parts of a folder with its originals, and tell the driver what they find."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace

from unseg.compute.engine import Engine, Part, Work, connected
from unseg.compute.progress import Progress
from unseg.compute.threads import single_threaded_pool
from unseg.protecting.findings import Finding, findings_of, spooled_findings
from unseg.protecting.manifest import Entry
from unseg.protecting.originals import Originals
from unseg.storage import image_limits
from unseg.storage.mirror import Mirror, mirror_here, mirrored
from unseg.storage.packing import packed, unpacked
from unseg.storage.sequences import Made

PARTS_AN_ACTOR = 8  # so that all end at about the same time
MOST = 256  # files of a part


def findings_of_actors(
    entries: Sequence[Entry], kept: Originals, engine: Engine, cores: int, progress: Progress
) -> Sequence[Finding]:
    """Returns what actors find about the files of lines, in their order. cores: of each actor, and its threads."""
    if not entries:
        return []
    mirror = mirror_here()
    found, places = spooled_findings(), array("q", bytes(8 * len(entries)))
    with connected(engine, progress) as crew, progress.bar("verify", len(entries)) as tick:
        length = min(MOST, -(-len(entries) // (PARTS_AN_ACTOR * crew.size(cores))))
        starts = range(0, len(entries), length)
        parts = (_part(start, list(entries[start : start + length]), kept, mirror) for start in starts)
        common = packed((kept, cores), mirror)
        with closing(crew.results(work_on_findings, common, parts, len(starts), cores)) as results:
            for start, findings in results:
                for place, finding in enumerate(findings, start):
                    places[place] = len(found)
                    found.add(finding)
                    tick()
    return Made(places, found.at)


def _part(start: int, entries: list[Entry], kept: Originals, mirror: Mirror | None) -> Part:
    names = [] if mirror is None else mirror.names(path for entry in entries for path in kept.files_of(entry))
    return Part(f"files {start + 1} to {start + len(entries)}", packed((start, entries, names), mirror))


@contextmanager
def work_on_findings(common: bytes) -> Iterator[Work]:
    """Begins an actor's work: gets the originals once, and compares parts of a folder with them."""
    with mirrored() as mirror:
        kept, cores = unpacked(common, mirror)

        def work(part: bytes) -> tuple[int, list[Finding]]:
            start, entries, names = unpacked(part, mirror)
            with (
                mirror.lent(names),
                image_limits.own_size_limit(),
                image_limits.quiet_decoders(),
                single_threaded_pool(cores) as pool,
            ):
                found = findings_of(entries, kept, pool)
                return start, [replace(one, problem=one.problem and mirror.told(one.problem)) for one in found]

        yield work
