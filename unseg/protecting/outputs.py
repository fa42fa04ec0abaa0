"""Names for outputs that lose nothing, in folders where nothing of the user's can be overwritten."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path, PurePosixPath

from unseg.data.name_matching import unicode_form
from unseg.data.samples import SampleFile
from unseg.errors import UserError
from unseg.protecting.manifest import OWN_NAMES, Entry, Key
from unseg.storage.files import WINDOWS, is_relative, link_on_the_way
from unseg.storage.places import lies_in
from unseg.storage.sequences import Made, Places, Spooled, in_order
from unseg.storage.windows_names import for_windows

SUFFIXES = {"png": (".png",), "tiff": (".tif", ".tiff"), "webp": (".webp",), "jpeg": (".jpg", ".jpeg")}


@dataclass(frozen=True, slots=True)
class Planned:
    """The names that are planned for one input, relative to the output folder.

    output: of the protected image. copy: of the input, should it be copied without protection; None where a file of the
    user's lies there. note: says how a name was changed to keep two inputs apart, or for Windows.
    """

    output: str
    copy: str | None
    note: str | None


def check_folders(inputs: Sequence[Path], out: Path, masks: Path | None) -> None:
    """Raises UserError where the output folder lies in an input or the other way round.

    A later run would take outputs for inputs.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; give a folder")
    for given in inputs:
        if given.is_dir() and lies_in(out, given):
            raise UserError(f"--out {out}: lies in the input folder {given}; give a folder beside it")
        if lies_in(given, out):
            raise UserError(f"--out {out}: holds the input {given}; give another folder")
    if masks is not None and lies_in(out, masks):
        raise UserError(f"--out {out}: lies in {masks}, where the masks or annotations are; give a folder beside it")


def plan_outputs(
    keys: Sequence[Key],
    out: Path,
    form: str,
    earlier: Mapping[Key, Entry],
    names: str = "suffix",
    own_format: Callable[[int], bool] = lambda place: False,
    own: range | None = None,
) -> Sequence[Planned]:
    """Returns names for every input, unique even where upper and lower case, or two forms of a letter, are the same.

    keys: of all inputs, sorted, each once; the names are in their order. Names of earlier runs stay. Then inputs that
    need no new suffix are served, then the others: of a.jpg and a.png, a.png keeps its name and a.jpg becomes
    a.jpg.png. Where `names` is "keep", no input needs a new suffix, nor does one of `own_format`, which stays what it
    is; it is asked by its place among the keys. form: a key of `SUFFIXES`. own: the places of the inputs that this run
    writes, where others write the rest; only theirs is looked for in the folder. Raises UserError where a name leads
    out of the output, and where a file that no manifest line owns or a linked folder is in the way.
    """
    _check_names(keys, out)

    def suffixes_of(place: int) -> Sequence[str] | None:
        if own_format(place):
            return (PurePosixPath(keys[place][0]).suffix.lower(),)
        return SUFFIXES[form] if names == "suffix" else None

    lines = in_order(earlier)
    taken = _Taken(keys, Made(range(len(lines)), lambda number: (lines[number].key, lines[number].owned)), OWN_NAMES)
    for place in _served(keys, suffixes_of):
        key, suffixes = keys[place], suffixes_of(place)
        before = earlier.get(key)
        kept = before.output if before and before.status != "copied" else None
        if kept and not _keeps_suffix(kept, suffixes):
            kept = None
        output = kept or taken.first_free(_output_names(key[0], suffixes), place)
        copy = taken.first_free(_copy_names(key[0]), place)
        taken.add(place, Planned(output, copy, _note(key[0], output, suffixes)))
    planned = taken.planned
    mine = range(len(keys)) if own is None else own
    found = _spooled(looked_for(((keys[place], planned[place]) for place in mine), out, earlier))
    return found if own is None else _spooled(chain(planned[: mine.start], found, planned[mine.stop :]))


def looked_for(planned: Iterable[tuple[Key, Planned]], out: Path, earlier: Mapping[Key, Entry]) -> Iterator[Planned]:
    """Yields planned names without those of copies that a file of the user's has.

    earlier: lines of earlier runs, whose files are no strangers. UserError where another file has an output's name.
    """
    first, more = None, 0
    for key, plan in planned:
        before = earlier.get(key)
        owned = before.owned if before else ()
        if plan.output not in owned and os.path.lexists(out / plan.output):
            first, more = min(first or plan.output, plan.output), more + 1
        free = plan.copy is None or plan.copy in owned or not os.path.lexists(out / plan.copy)
        yield plan if free else replace(plan, copy=None)
    if first is not None:
        others = f" and {more - 1} more" if more > 1 else ""
        are = "exist and were" if others else "exists and was"
        raise UserError(f"--out {out}: {first}{others} {are} not written by unseg for this input; give another folder")


def plan_masks(samples: Mapping[Key, SampleFile], folder: Path, earlier: Mapping[Key, str]) -> dict[Key, str]:
    """Returns the name of every input's mask in a folder of PNGs: that of its output, where that is a PNG.

    earlier: names of before, which stay. Raises UserError where a name leads out of the folder.
    """
    keys = sorted(samples)
    _check_names(keys, folder)
    taken = _Taken(keys, [(key, (name,)) for key, name in earlier.items()])
    for place in _served(keys, lambda place: SUFFIXES["png"]):
        key = keys[place]
        name = earlier.get(key) or taken.first_free(_output_names(key[0], SUFFIXES["png"]), place)
        taken.add(place, Planned(name, None, None))
    return {key: plan.output for key, plan in zip(keys, taken.planned, strict=True)}


class _Taken:
    """Which names are taken, and by whom; they are compared in the form that all names of one file share.

    keys: of the inputs, which are told apart by their places. earlier: who has names already, with these. reserved:
    names that nobody may have.
    """

    def __init__(
        self, keys: Sequence[Key], earlier: Sequence[tuple[Key, tuple[str, ...]]], reserved: Collection[str] = ()
    ) -> None:
        self._keys, self._earlier, self._reserved = keys, earlier, reserved
        self._plans, self._numbers = _spooled(), array("q", bytes(8 * len(keys)))
        self._holders = Places()  # by name; those of earlier behind the inputs
        for number, (_, names) in enumerate(earlier):
            for name in names:
                self._holders.add(_folded(name), len(keys) + number)

    def first_free(self, names: Iterable[str], place: int) -> str:
        """Returns the first name that no other than the input of a place has; from then on that one has it."""
        name = next(name for name in names if self._is_free(_folded(name), place))
        self._holders.add(_folded(name), place)
        return name

    def _is_free(self, folded: str, place: int) -> bool:
        if folded in self._reserved:
            return False
        return all(one == place or not self._has(one, folded, place) for one in self._holders.of(folded))

    def _has(self, holder: int, folded: str, place: int) -> bool:
        """Returns whether a holder has a name, and is another than the input of a place."""
        if holder < len(self._keys):
            plan = self._plans.at(self._numbers[holder])
            return folded in (_folded(plan.output), _folded(plan.copy or plan.output))
        key, names = self._earlier[holder - len(self._keys)]
        return key != self._keys[place] and folded in map(_folded, names)

    def add(self, place: int, plan: Planned) -> None:
        """Keeps what is planned for the input of a place."""
        self._numbers[place] = len(self._plans)
        self._plans.add(plan)

    @property
    def planned(self) -> Sequence[Planned]:
        """Returns what is planned for the inputs, by their places."""
        return Made(self._numbers, self._plans.at)


def _spooled(plans: Iterable[Planned] = ()) -> Spooled[Planned]:
    return Spooled(plans, lambda plan: (plan.output, plan.copy, plan.note), lambda values: Planned(*values))


def _served(keys: Sequence[Key], suffixes_of: Callable[[int], Sequence[str] | None]) -> Iterator[int]:
    """Yields the places of inputs: first of those that keep their suffix, then of the others."""
    keeps = bytearray(_keeps_suffix(key[0], suffixes_of(place)) for place, key in enumerate(keys))
    for wanted in (True, False):
        yield from (place for place, keep in enumerate(keeps) if keep == wanted)


def _note(name: str, output: str, suffixes: Sequence[str] | None) -> str | None:
    """Returns what to say of an output's name; None where it is the input's, but for its suffix."""
    simple = next(iter(_output_names(name, suffixes)))
    if output != simple:
        return f"named {output} because another input has the name {simple}"
    return None if _fitting(name) == name else f"named {output} because Windows takes no file of the name {name}"


def _fitting(name: str) -> str:
    return for_windows(name) if WINDOWS else name


def _check_names(keys: Sequence[Key], out: Path) -> None:
    outside = next((name for name, _ in keys if not is_relative(name, WINDOWS)), None)
    if outside is not None:
        raise UserError(f"--out {out}: the name {outside!r} leads out of it; nothing is written there")
    for folder in sorted({str(PurePosixPath(_fitting(name)).parent) for name, _ in keys}):
        link = link_on_the_way(out, folder)
        if link is not None:
            raise UserError(
                f"--out {out}: {link} in it is a link, which is not followed; remove it or give another folder"
            )


def _keeps_suffix(name: str, suffixes: Sequence[str] | None) -> bool:
    """Returns whether a name may stay. suffixes: of the output's format; None where every name is kept."""
    return suffixes is None or PurePosixPath(name).suffix.lower() in suffixes


def _output_names(name: str, suffixes: Sequence[str] | None) -> chain[str]:
    name = _fitting(name)
    suffix = PurePosixPath(name).suffix if suffixes is None else suffixes[0]
    simple = name if _keeps_suffix(name, suffixes) else str(PurePosixPath(name).with_suffix(suffix))
    return chain([simple, f"{name}{suffix}"], (f"{name}.{number}{suffix}" for number in count(2)))


def _copy_names(name: str) -> chain[str]:
    name = _fitting(name)
    path = PurePosixPath(name)
    return chain([name], (str(path.with_name(f"{path.stem}.{number}{path.suffix}")) for number in count(2)))


def _folded(name: str) -> str:
    """Returns what names have in common that are one file on Windows or macOS."""
    return unicode_form(name).casefold()
