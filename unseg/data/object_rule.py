"""The rule that says which part of an image is the object: one value from the command line to the manifest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unseg.errors import UserError


@dataclass(frozen=True)
class ObjectRule:
    """Which classes or segments are the object. Crowds, void and the ignore label never are.

    which: "all", "things" (countable objects only) or class ids (a single class: one id). by_class: the classes stay
    apart, as codes. ignore_label: a class id that is never the object. background_label: a class id that "all" leaves
    out. Both labels are for masks of class ids alone, and None stands for no such label. UserError for ids that no mask
    can hold: those of more than 64 bits.
    """

    which: Literal["all", "things"] | tuple[int, ...] = "all"
    by_class: bool = False
    ignore_label: int | None = 255
    background_label: int | None = 0

    def __post_init__(self) -> None:
        for option, label in (("--ignore-label", self.ignore_label), ("--background-label", self.background_label)):
            if label is not None and not is_class_id(label):
                raise UserError(
                    f"{option} {label!r}: a class id is an int of at most 64 bits; give one that the masks can hold"
                )

    @staticmethod
    def parse(
        text: str, ignore_label: int | None = 255, background_label: int | None = 0, option: str = "--objects"
    ) -> ObjectRule:
        """Returns the rule that a user wrote: `all`, `things`, `multi`, `by-class`, or ids such as 3,4 or 1-5.

        `multi` is what the published scripts call `things`. Raises UserError, which names `option`, for anything else.
        """
        word = text.strip().lower()
        if word in ("things", "multi"):
            return ObjectRule("things", False, ignore_label, background_label)
        if word == "by-class":
            return ObjectRule("all", True, ignore_label, background_label)
        ids = parse_objects(text, option)
        return ObjectRule("all" if ids is None else ids, False, ignore_label, background_label)


def is_class_id(value: object) -> bool:
    """Returns whether a value is a whole number that a mask can hold: with a sign or without, of at most 64 bits."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**64


ALL_OBJECTS = ObjectRule()
MOST_IDS = 100_000  # of a range; no set has as many classes
LONGEST_ID = 20  # characters of a class id of 64 bits


def parse_objects(text: str, option: str = "--objects") -> tuple[int, ...] | None:
    """Returns None for `all`, and the sorted ids for `3,4` or `1-5,9`. Anything else is a UserError."""
    if text.strip().lower() == "all":
        return None
    ids: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        ends = [first, last] if dash else [first, first]
        if not all(map(_is_number, ends)) or int(ends[1]) < int(ends[0]):
            raise UserError(f"{option} {text[:80]}: give `all` or class ids such as 3,4 or 1-5")
        if int(ends[1]) - int(ends[0]) >= MOST_IDS:
            raise UserError(f"{option} {text[:80]}: a range of over {MOST_IDS:,} class ids; name those that there are")
        ids.update(range(int(ends[0]), int(ends[1]) + 1))
    return tuple(sorted(ids))


def _is_number(text: str) -> bool:
    """Returns whether a text is a class id in plain digits: `str.isdigit` takes ², too."""
    return text.isascii() and text.isdigit() and len(text) <= LONGEST_ID and is_class_id(int(text))
