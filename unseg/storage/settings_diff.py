"""Whether two runs into one folder were asked for the same thing, and in which words a difference is told."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

SHOWN = 80  # characters of a value
CONTEXT = 20  # characters before the place where two long values differ


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], within: str = "", words: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Yields a phrase for each setting that differs, "name: value, now value"; of nested settings, for each inner one.

    Both sides are compared as JSON holds them, so that a tuple equals a list. A setting that one side lacks is null.
    words: what a setting is called in place of its path ("inner.name").
    """
    before, now = _as_json(before), _as_json(now)
    for name in dict.fromkeys([*now, *before]):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, f"{within}{name}.", words)
        elif old != new:
            path = f"{within}{name}"
            yield f"{(words or {}).get(path, path)}: {', now '.join(_shown(old, new))}"


def _as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(dict(settings)))


def _shown(*values: Any) -> list[str]:
    """Returns the values in at most `SHOWN` characters each, which begin shortly before the place where they differ."""
    texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
    same = len(os.path.commonprefix(texts))
    start = same - CONTEXT if same > SHOWN - CONTEXT else 0
    return [f"{'…' * bool(start)}{text[start : start + SHOWN]}{'…' * (len(text) > start + SHOWN)}" for text in texts]
