"""Names of files that stand for one another although they are not written alike.

macOS and its archives write an accented letter as two characters (NFD), most other programs as one (NFC); cameras write
`.JPG`, lists `.jpg`. The very name always goes before another form of it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable


def unicode_form(name: str) -> str:
    """Returns a name in the one form (NFC) that all ways to write its letters have in common."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def file_form(name: str) -> str:
    """Returns a file's name in the form that it has in common with others of its Unicode form and suffix.

    The case of the suffix does not count.
    """
    stem, dot, suffix = unicode_form(name).rpartition(".")
    return f"{stem}{dot}{suffix.lower()}"


def paired_names(
    wanted: Iterable[str], there: Iterable[str], form: Callable[[str], str] = unicode_form
) -> dict[str, str]:
    """Returns wanted name → the name that is there for it; wanted names that have none are left out.

    The very name counts. Of what is left then, names of one form are paired where there is one on either side.
    """
    wanted, there = set(wanted), set(there)
    found = {name: name for name in wanted & there}
    candidates = _by_form(there - wanted, form)
    for same, names in _by_form(wanted - there, form).items():
        others = candidates.get(same, ())
        if len(names) == len(others) == 1:
            found[names[0]] = others[0]
    return found


def _by_form(names: Iterable[str], form: Callable[[str], str]) -> dict[str, list[str]]:
    forms: dict[str, list[str]] = {}
    for name in names:
        forms.setdefault(form(name), []).append(name)
    return forms
