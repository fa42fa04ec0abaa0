"""What an edition holds beside its protected images, brought into a store: a part at a time, after its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from unseg.compute.progress import SILENT, Progress
from unseg.compute.threads import worker_threads
from unseg.editions.carried import Carried, read_carried, write_carried
from unseg.editions.carry import Item, carry
from unseg.protecting.manifest import CARRIED
from unseg.protecting.stores import SENDERS
from unseg.storage.locks import Held
from unseg.storage.mirror import Mirror

PART = 1000  # files that lie on this disk until they are sent


def carry_to_store(
    mirror: Mirror,
    items: Sequence[Item],
    roots: Sequence[Path],
    held: Held,
    outputs: Mapping[str, str],
    progress: Progress = SILENT,
) -> list[Carried]:
    """Brings every item into the store of a mirrored folder, as `carry` brings it into one of this machine.

    The record goes first: what lies in the store without a line would be a stranger's. A file that the store lacks, or
    has with another content, is brought again by the next run.
    """
    out = held.folder
    write_carried(out, read_carried(out))  # as a file of this machine, which can be added to
    lines: list[Carried] = []
    for start in range(0, max(1, len(items)), PART):
        part = items[start : start + PART]
        lines = carry(part, roots, held, outputs, progress)
        mirror.send(out / CARRIED)
        paths = [out / item.name for item in part]
        with worker_threads(SENDERS) as senders:
            list(senders.map(mirror.send, filter(mirror.is_written, paths)))
        for path in paths:
            mirror.give_up(path)
    return lines
