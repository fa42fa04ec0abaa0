"""Names for outputs that lose nothing, in folders where nothing of the user's can be overwritten."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path, PurePosixPath

from unseg.data.name_matching import unicode_form
from unseg.data.samples import SampleFile
from unseg.errors import UserError
from unseg.protecting.manifest import OWN_NAMES, Entry, Key
from unseg.storage.files import WINDOWS, is_relative, link_on_the_way
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
    real_out = _real(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out}: is a file; give a folder")
    for given in inputs:
        real = _real(given)
        if given.is_dir() and (real_out == real or real in real_out.parents):
            raise UserError(f"--out {out}: lies in the input folder {given}; give a folder beside it")
        if real_out in real.parents:
            raise UserError(f"--out {out}: holds the input {given}; give another folder")
    if masks is not None and _real(masks) in (real_out, *real_out.parents):
        raise UserError(f"--out {out}: lies in {masks}, where the masks or annotations are; give a folder beside it")


def _real(path: Path) -> Path:
    """Returns where `path` leads; a link that leads to itself stays as it is, and whoever opens it learns so."""
    return Path(os.path.realpath(path))


def plan_outputs(
    samples: Mapping[Key, SampleFile],
    out: Path,
    form: str,
    earlier: Mapping[Key, Entry],
    names: str = "suffix",
    own_format: Collection[Key] = (),
    own: Collection[Key] | None = None,
) -> dict[Key, Planned]:
    """Returns names for every input, unique even where upper and lower case, or two forms of a letter, are the same.

    They do not depend on the order of the inputs. Names of earlier runs stay. Then inputs that need no new suffix are
    served, then the others in sorted order: of a.jpg and a.png, a.png keeps its name and a.jpg becomes a.jpg.png. Where
    `names` is "keep", no input needs a new suffix, nor does one of `own_format`, which stays what it is. form: a key of
    `SUFFIXES`. own: the inputs that this run writes, where others write the rest; only theirs is looked for in the
    folder. Raises UserError where a name leads out of the output, and where a file that no manifest line owns or a
    linked folder is in the way.
    """
    _check_names(samples, out)

    def suffixes_of(key: Key) -> Sequence[str] | None:
        if key in own_format:
            return (PurePosixPath(key[0]).suffix.lower(),)
        return SUFFIXES[form] if names == "suffix" else None

    taken = {_folded(name): key for key, entry in earlier.items() for name in entry.owned}
    taken.update(dict.fromkeys(OWN_NAMES, ("", "")))
    planned: dict[Key, Planned] = {}
    mine = samples.keys() if own is None else set(own)
    for key in sorted(samples, key=lambda key: (not _keeps_suffix(key[0], suffixes_of(key)), key)):
        before, suffixes = earlier.get(key), suffixes_of(key)
        kept = before.output if before and before.status != "copied" else None
        if kept and not _keeps_suffix(kept, suffixes):
            kept = None
        output = kept or _first_free(_output_names(key[0], suffixes), key, taken)
        copy = _first_free(_copy_names(key[0]), key, taken)
        copy = output if copy == output else copy  # one text for both
        planned[key] = Planned(output, copy, _note(key[0], output, suffixes))
    planned.update(looked_for({key: planned[key] for key in planned if key in mine}, out, earlier))
    return planned


def looked_for(planned: Mapping[Key, Planned], out: Path, earlier: Mapping[Key, Entry]) -> dict[Key, Planned]:
    """Returns planned names without those of copies that a file of the user's has.

    earlier: lines of earlier runs, whose files are no strangers. UserError where another file has an output's name.
    """
    _check_nothing_in_the_way(planned, out, earlier)
    found = {}
    for key, plan in planned.items():
        owned = earlier[key].owned if key in earlier else ()
        free = plan.copy is None or plan.copy in owned or not os.path.lexists(out / plan.copy)
        found[key] = plan if free else replace(plan, copy=None)
    return found


def plan_masks(samples: Mapping[Key, SampleFile], folder: Path, earlier: Mapping[Key, str]) -> dict[Key, str]:
    """Returns the name of every input's mask in a folder of PNGs: that of its output, where that is a PNG.

    earlier: names of before, which stay. Raises UserError where a name leads out of the folder.
    """
    _check_names(samples, folder)
    taken = {_folded(name): key for key, name in earlier.items()}
    planned: dict[Key, str] = {}
    for key in sorted(samples, key=lambda key: (not _keeps_suffix(key[0], SUFFIXES["png"]), key)):
        planned[key] = earlier.get(key) or _first_free(_output_names(key[0], SUFFIXES["png"]), key, taken)
    return planned


def _note(name: str, output: str, suffixes: Sequence[str] | None) -> str | None:
    """Returns what to say of an output's name; None where it is the input's, but for its suffix."""
    simple = next(iter(_output_names(name, suffixes)))
    if output != simple:
        return f"named {output} because another input has the name {simple}"
    return None if _fitting(name) == name else f"named {output} because Windows takes no file of the name {name}"


def _fitting(name: str) -> str:
    return for_windows(name) if WINDOWS else name


def _check_names(samples: Mapping[Key, SampleFile], out: Path) -> None:
    outside = next((name for name, _ in samples if not is_relative(name, WINDOWS)), None)
    if outside is not None:
        raise UserError(f"--out {out}: the name {outside!r} leads out of it; nothing is written there")
    for folder in sorted({str(PurePosixPath(_fitting(name)).parent) for name, _ in samples}):
        link = link_on_the_way(out, folder)
        if link is not None:
            raise UserError(
                f"--out {out}: {link} in it is a link, which is not followed; remove it or give another folder"
            )


def _check_nothing_in_the_way(planned: Mapping[Key, Planned], out: Path, earlier: Mapping[Key, Entry]) -> None:
    owned = {name for key in planned if key in earlier for name in earlier[key].owned}
    foreign = sorted(
        plan.output for plan in planned.values() if plan.output not in owned and os.path.lexists(out / plan.output)
    )
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise UserError(
            f"--out {out}: {foreign[0]}{more} exists and was not written by unseg for this input; give another folder"
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


def _first_free(names: chain[str], key: Key, taken: dict[str, Key]) -> str:
    name = next(name for name in names if taken.get(_folded(name), key) == key)
    taken[_folded(name)] = key
    return name


def _folded(name: str) -> str:
    """Returns what names have in common that are one file on Windows or macOS."""
    return unicode_form(name).casefold()
