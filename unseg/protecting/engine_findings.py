"""The proof on an engine: actors compare parts of a folder with its originals, and tell the driver what they find."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from unseg.compute.engine import Engine, Part, Work, connected
from unseg.compute.progress import Progress
from unseg.compute.threads import single_threaded_pool
from unseg.protecting.findings import Finding, faults_in, findings_of, spooled_findings
from unseg.protecting.manifest import MANIFEST, Entry
from unseg.protecting.originals import Originals
from unseg.storage import image_limits
from unseg.storage.containers import Container
from unseg.storage.lending import Sender, receiving
from unseg.storage.sequences import Made

PARTS_AN_ACTOR = 8  # so that all end at about the same time
MOST = 256  # files of a part


def cluster_for(engine: Engine | None, progress: Progress) -> AbstractContextManager[object]:
    """Joins or starts the cluster of an engine once, for several proofs inside; does nothing where there is none."""
    return nullcontext() if engine is None else connected(engine, progress)


def findings_of_actors(
    entries: Sequence[Entry], kept: Originals, engine: Engine, cores: int, progress: Progress
) -> Sequence[Finding]:
    """Returns what actors find about the files of lines, in their order. cores: of each actor, and its threads."""
    if not entries:
        return []
    sender = Sender.here()
    found, places = spooled_findings(), array("q", bytes(8 * len(entries)))
    with connected(engine, progress) as crew, progress.bar("verify", len(entries)) as tick:
        length = min(MOST, -(-len(entries) // (PARTS_AN_ACTOR * crew.size(cores))))
        starts = range(0, len(entries), length)
        parts = (_part(start, list(entries[start : start + length]), kept, sender) for start in starts)
        files = [kept.folder / MANIFEST, *kept.files_of_all]  # its folder is there then, from which others are named
        common = sender.common((kept.of(()), cores), files)
        with closing(crew.results(work_on_findings, common, parts, len(starts), cores)) as results:
            for start, findings in results:
                for place, finding in enumerate(findings, start):
                    places[place] = len(found)
                    found.add(finding)
                    tick()
    return Made(places, found.at)


def faults_of_actors(
    written: Sequence[tuple[Container, set[str]]], folder: Path, engine: Engine, cores: int, progress: Progress
) -> list[Finding]:
    """Returns what actors find about tars or tables but for their images, as `faults_in` does, in their order.

    written: the originals, and which of their images have their noise. folder: of the protected ones.
    """
    sender, found = Sender.here(), dict[int, list[Finding]]()
    with connected(engine, progress) as crew:
        parts = (
            Part(container.place, sender.part((number, container, names), (container.path, folder / container.place)))
            for number, (container, names) in enumerate(written)
        )
        common = sender.common(folder, ())
        with closing(crew.results(work_on_containers, common, parts, len(written), cores)) as results:
            found.update(results)
    return [finding for number in sorted(found) for finding in found[number]]


@contextmanager
def work_on_containers(common: bytes) -> Iterator[Work]:
    """Begins an actor's work: compares tars or tables of a folder with their originals, one after the other."""
    with receiving() as receiver, receiver.common(common) as folder:

        def work(part: bytes) -> tuple[int, list[Finding]]:
            with receiver.part(part) as (number, container, names):
                found = faults_in(container, folder, names)
                return number, [replace(one, problem=one.problem and receiver.told(one.problem)) for one in found]

        yield work


def _part(start: int, entries: list[Entry], kept: Originals, sender: Sender) -> Part:
    annotations = kept.of(entries).annotations
    annotations = None if annotations is kept.annotations else annotations  # else what all parts are told has them
    content = sender.part((start, entries, annotations), (path for entry in entries for path in kept.files_of(entry)))
    return Part(f"files {start + 1} to {start + len(entries)}", content)


@contextmanager
def work_on_findings(common: bytes) -> Iterator[Work]:
    """Begins an actor's work: gets the originals once, and compares parts of a folder with them."""
    with receiving() as receiver, receiver.common(common) as (whole, cores):

        def work(part: bytes) -> tuple[int, list[Finding]]:
            with (
                receiver.part(part) as (start, entries, annotations),
                image_limits.own_size_limit(),
                image_limits.quiet_decoders(),
                single_threaded_pool(cores) as pool,
            ):
                own = whole if annotations is None else replace(whole, annotations=annotations)
                found = findings_of(entries, own, pool)
                return start, [replace(one, problem=one.problem and receiver.told(one.problem)) for one in found]

        yield work
