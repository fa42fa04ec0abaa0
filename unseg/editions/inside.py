"""What comes into an edition lies inside the data set: links that lead elsewhere, pipes and devices are refused.

An edition is made to be published, and a data set may come from anyone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from unseg.data.edition_layout import Located
from unseg.errors import UserError
from unseg.storage.files import leads_out, walk_folders


def check_links(places: Iterable[Located], roots: Sequence[Path]) -> None:
    """Raises UserError where a folder or file of these sets, or a link in one of the folders, leads out of the roots.

    roots: the data set's, and those that the user named besides. Hidden files are not looked at: nothing reads them.
    """
    for path in dict.fromkeys(path for place in places for path in _paths_of(place)):
        _check(path, roots)
        if os.path.isdir(path):
            for parent, folders, names in walk_folders(path, lambda error: None, follow_links=True):
                folders[:] = [name for name in folders if not name.startswith(".")]
                for name in (*folders, *names):
                    if not name.startswith(".") and os.path.islink(os.path.join(parent, name)):
                        _check(Path(parent, name), roots)


def check_files(names: Iterable[str], root: Path) -> None:
    """Raises UserError where one of the files under `root` cannot be copied: it is none, or it is not there."""
    for name in names:
        path = root / name
        try:
            regular = stat.S_ISREG(os.stat(path).st_mode)
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}; the edition needs it") from error
        if not regular:
            raise UserError(f"{path}: no regular file, but a folder, pipe or device; remove it from the data set")


def _paths_of(place: Located) -> list[Path]:
    source = place.source
    patterns = (source.images, source.annotations, source.segments, source.listing, *place.set.carried)
    return [place.path(pattern) for pattern in dict.fromkeys(patterns) if pattern]


def _check(path: Path, roots: Sequence[Path]) -> None:
    if leads_out(path, roots):
        raise UserError(
            f"{path}: a link on the way leads out of DATA_ROOT, to {os.path.realpath(path)}; remove it, or, if that"
            " belongs to the data set, name a folder that holds it: LINKED_ROOTS=…"
        )
