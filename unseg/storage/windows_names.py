"""Names of files that Windows does not take, and what stands in for them there.

A name may be that of a device (`con.png`), hold a character that means something else (`a:b.png` is a second content of
the file `a`), or end in a dot or a blank, which Windows leaves out (`x .` is `x`).
"""

from __future__ import annotations

import re

_DIGITS = "123456789¹²³"
_DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    f"{port}{n}" for port in ("com", "lpt") for n in _DIGITS
}
_NOT_TAKEN = re.compile(r'[<>:"|?*\x00-\x1f]')
_AT_THE_END = re.compile(r"[ .]+$")
_PARTS = re.compile(r"[^/\\]+")


def for_windows(name: str) -> str:
    """Returns a relative name as Windows takes it: the name itself where it does, else with `_` for what it does not.

    Parts that are dots alone stay: they are no names, and whoever writes a file refuses ways up before.
    """
    return _PARTS.sub(lambda part: _taken(part.group()), name)


def leads_to_a_device(name: str) -> bool:
    """Returns whether a part of a relative name is a device of Windows, a content beside a file's own, or nothing."""
    return any(
        ":" in part or _is_device(part) or (not part.strip(" .") and part not in (".", ".."))
        for part in _PARTS.findall(name)
    )


def _taken(part: str) -> str:
    if part in (".", ".."):
        return part
    part = _NOT_TAKEN.sub("_", part)
    part = _AT_THE_END.sub(lambda end: "_" * len(end.group()), part)
    if _is_device(part):
        stem, dot, suffix = part.partition(".")
        part = f"{stem}_{dot}{suffix}"
    return part


def _is_device(part: str) -> bool:
    return part.partition(".")[0].rstrip(" ").casefold() in _DEVICES
