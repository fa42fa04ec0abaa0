"""What is found about protected files: each one compared with its original, by threads of this process."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import astuple, dataclass
from pathlib import Path

from unseg.compute.in_flight import PIXELS
from unseg.compute.threads import in_order
from unseg.errors import UserError
from unseg.protecting.comparison import compare
from unseg.protecting.manifest import Entry
from unseg.protecting.originals import Broken, Originals
from unseg.protecting.stack_comparison import compare_stacks
from unseg.storage.containers import Container
from unseg.storage.image_headers import pixel_count
from unseg.storage.image_limits import ImageError
from unseg.storage.sequences import Spooled


@dataclass(frozen=True)
class Finding:
    """What was found about one input or file. problem: None where all is well.

    max_object, max_background: the greatest change on the object's region and elsewhere, in grey levels of 255, a
    fraction where a channel has 16 bits (None where there is no such pixel or nothing could be compared). psnr: dB.
    """

    name: str
    problem: str | None
    max_object: float | None = None
    max_background: float | None = None
    psnr: float | None = None


def faults_in(container: Container, folder: Path, written: Collection[str]) -> list[Finding]:
    """Returns what is wrong with a protected tar or table but for its images. written: those that have their noise.

    container: the original. folder: of the protected ones.
    """
    place = container.place
    if not (folder / place).is_file():
        return [Finding(place, "missing")]
    try:
        faults = list(container.faults(folder / place, written))
    except UserError as error:
        return [Finding(place, str(error).removeprefix(f"{folder / place}: "))]
    return [Finding(f"{place}/{name}".rstrip("/"), problem) for name, problem in faults]


def spooled_findings(findings: Iterable[Finding] = ()) -> Spooled[Finding]:
    """Returns findings in the order given; memory holds some bytes of each."""
    return Spooled(findings, astuple, lambda values: Finding(*values))


def findings_of(entries: Iterable[Entry], kept: Originals, pool: Executor) -> Iterator[Finding]:
    """Yields what is found about the files of lines, in their order. kept: with all annotations open."""
    return in_order(pool, lambda entry: _finding(entry, kept), entries)


def _finding(entry: Entry, kept: Originals) -> Finding:
    name = entry.output or entry.input
    try:
        with PIXELS.room_for(pixel_count(kept.folder / name)):
            compared = compare(entry, kept) if entry.kind is None else compare_stacks(entry, kept)
    except (Broken, ImageError) as error:
        return Finding(name, str(error))
    except MemoryError:
        return Finding(name, "not enough memory to decode it")
    problem = "; ".join(compared.problems) or None
    return Finding(name, problem, compared.on_object, compared.elsewhere, psnr=compared.psnr)
