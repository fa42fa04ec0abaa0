"""What the texts of `unseg evaluate`'s options are parsed into."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from unseg.errors import UserError


def named_folders(given: Sequence[str]) -> dict[str, Path]:
    """Returns `[NAME=]DIR …` as name → folder.

    One folder without a name is "protected", of several each has its folder's name. Raises UserError for a name that is
    taken or cannot be one.
    """
    from unseg.evaluation.condition_names import BASE_NAME, RESERVED

    folders: dict[str, Path] = {}
    for text in given:
        name, path = _named_folder(text, alone=len(given) == 1)
        if not re.fullmatch(BASE_NAME, name, re.ASCII) or name in RESERVED:
            raise UserError(
                f"--protected {text}: '{name}' cannot be its name; give NAME=DIR with a NAME of letters, digits, _, "
                f". and - that is none of {', '.join(RESERVED)}"
            )
        if name in folders:
            raise UserError(
                f"--protected {text}: there is another folder called {name}; give NAME=DIR with names that differ"
            )
        folders[name] = path
    return folders


def _named_folder(text: str, alone: bool) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if equals and not Path(text).is_dir():
        return name, Path(path)
    return "protected" if alone else Path(text).name, Path(text)


def named_weights(given: Sequence[str]) -> dict[str, Path]:
    """Returns `[NETWORK=]PATH …` as network → path; "" stands for all networks."""
    weights: dict[str, Path] = {}
    for text in given:
        name, path = ("", text) if Path(text).exists() or "=" not in text else text.split("=", 1)
        if name in weights:
            raise UserError(f"--weights: given twice for {name or 'all networks'}; give NETWORK=PATH for each")
        weights[name] = Path(path)
    return weights


def parse_settings(given: Sequence[str]) -> dict[str, object]:
    """Returns `NAME=VALUE …` as a dictionary; values as JSON has them (true, 0.5, [1, 2]), else as text."""
    values: dict[str, object] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UserError(f"--set {text}: give NAME=VALUE")
        try:
            values[name] = json.loads(value)
        except ValueError:
            values[name] = value
    return values


def parse_shares(text: str | None) -> tuple[int, ...]:
    """Returns `0,20,100` as whole percents, each once."""
    if text is None:
        return ()
    shares = split_list("--shares", text)
    if not all(re.fullmatch(r"\d{1,3}", share, re.ASCII) and int(share) <= 100 for share in shares):
        raise UserError(f"--shares {text}: give whole percents from 0 to 100, such as 0,20,40,60,80,100")
    return tuple(dict.fromkeys(map(int, shares)))


def parse_size(text: str) -> tuple[int, int]:
    """Returns `128x96` as (width, height)."""
    match = re.fullmatch(r"(\d+)[x×](\d+)", text.strip())
    if match is None:
        raise UserError(f"--size {text}: give WIDTHxHEIGHT, such as 240x180")
    return int(match[1]), int(match[2])


def split_list(option: str, text: str) -> tuple[str, ...]:
    """Returns names separated by commas, each once."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UserError(f"{option}: give at least one name")
    return names


def parse_seeds(text: str) -> tuple[int, ...]:
    """Returns `0,1,2` as (0, 1, 2)."""
    seeds = split_list("--seeds", text) if text.strip(" ,") else ()
    if not seeds or not all(re.fullmatch(r"\d{1,18}", seed, re.ASCII) for seed in seeds):
        raise UserError(f"--seeds {text}: give whole numbers from 0, such as 0,1,2")
    return tuple(dict.fromkeys(map(int, seeds)))
