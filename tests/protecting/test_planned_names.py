"""Names for outputs are those that a plain table of names gives, for any mixture of names and of earlier lines."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from itertools import chain, count
from pathlib import Path, PurePosixPath

import pytest

from unseg.data.name_matching import unicode_form
from unseg.errors import UserError
from unseg.protecting.manifest import Entry, Key, lines_of
from unseg.protecting.outputs import plan_outputs

PARTS = ("a", "A", "b", "é", "e\N{COMBINING ACUTE ACCENT}", "a.png", "a.jpg", "a.2")
SUFFIXES = (".png", ".PNG", ".jpg", ".bmp", ".jpg.png", "")


def named(keys: Iterable[Key], earlier: Mapping[Key, Entry], keeps: bool) -> dict[Key, tuple[str, str]]:
    """Output and copy of each input, with a dict of all names."""
    taken = {folded(name): key for key, entry in earlier.items() for name in entry.owned}

    def first_free(names: Iterable[str], key: Key) -> str:
        name = next(name for name in names if taken.get(folded(name), key) == key)
        taken[folded(name)] = key
        return name

    found = {}
    for key in sorted(keys, key=lambda key: (not keeps and PurePosixPath(key[0]).suffix.lower() != ".png", key)):
        name, path = key[0], PurePosixPath(key[0])
        suffix = path.suffix if keeps else ".png"
        simple = name if keeps or path.suffix.lower() == ".png" else str(path.with_suffix(".png"))
        outputs = chain([simple, f"{name}{suffix}"], (f"{name}.{number}{suffix}" for number in count(2)))
        copies = chain([name], (str(path.with_name(f"{path.stem}.{number}{path.suffix}")) for number in count(2)))
        before = earlier.get(key)
        kept = before.output if before and before.status != "copied" else None
        good = kept and (keeps or PurePosixPath(kept).suffix.lower() == ".png")
        found[key] = (kept if kept and good else first_free(outputs, key)), first_free(copies, key)
    return found


def folded(name: str) -> str:
    return unicode_form(name).casefold()


def drawn_keys(draw: random.Random) -> list[Key]:
    names = {f"{draw.choice(PARTS)}{draw.choice(SUFFIXES)}" for _ in range(draw.randint(1, 25))}
    return sorted((name, draw.choice(("../x", "../y"))) for name in names)


@pytest.mark.parametrize("keeps", [False, True])
def test_names_are_those_of_a_table(tmp_path: Path, keeps: bool) -> None:
    for seed in range(150):
        draw = random.Random(seed)
        keys, before = drawn_keys(draw), drawn_keys(draw) if seed % 3 else []
        first = named(before, {}, keeps)
        lines = [
            Entry(*key, draw.choice(("protected", "copied", "failed")), output=names[draw.randint(0, 1)])
            for key, names in first.items()
        ]
        earlier = {line.key: line for line in lines}
        plans = plan_outputs(keys, tmp_path, "png", lines_of(lines), names="keep" if keeps else "suffix")
        found = {key: (plan.output, plan.copy) for key, plan in zip(keys, plans, strict=True)}
        assert found == named(keys, earlier, keeps), seed


def test_a_shard_has_the_names_of_the_whole_and_looks_for_its_own(tmp_path: Path) -> None:
    keys = [(f"{letter}.jpg", "..") for letter in "abcdef"]
    (tmp_path / "a.png").touch()
    (tmp_path / "d.jpg").touch()
    plans = plan_outputs(keys, tmp_path, "png", {}, own=range(2, 4))
    assert [(plan.output, plan.copy) for plan in plans] == [
        ("a.png", "a.jpg"),
        ("b.png", "b.jpg"),
        ("c.png", "c.jpg"),
        ("d.png", None),
        ("e.png", "e.jpg"),
        ("f.png", "f.jpg"),
    ]
    (tmp_path / "b.png").touch()
    with pytest.raises(UserError, match=r"a\.png and 1 more exist and were not written by unseg"):
        plan_outputs(keys, tmp_path, "png", {})
