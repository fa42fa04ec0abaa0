"""What those who add to a results.json rely on, checked before anything is trained: it may have been edited."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

NUMBERS = ("best", "train_loss", "train_images", "seconds")  # of a result; some versions did not write all


def fault_of(content: Mapping[str, Any]) -> str | None:
    """Returns what is wrong with the content of a results.json in today's schema, in words; None where nothing is."""
    tasks = content["tasks"]
    for run in content["runs"]:
        settings, result = run["settings"], run["result"]
        what = f"{settings['condition']} on {settings['network']}, seed {settings['seed']}"
        if settings["task"] not in tasks:
            return f"{what}: no task {settings['task']!r} in tasks"
        fault = _of_result(result) or _of_trivial(result, tasks[settings["task"]])
        if fault is not None:
            return f"{what}: {fault}"
    return next((f"task {name}: {fault}" for name, facts in tasks.items() if (fault := _of_facts(facts))), None)


def _of_result(result: Mapping[str, Any]) -> str | None:
    if not isinstance(result.get("metric"), str):
        return "metric is no name"
    if not _is_number(result.get("final")):
        return "final is no number"
    for name in NUMBERS:
        if result.get(name) is not None and not _is_number(result[name]):
            return f"{name} is no number"
    for name, is_good, of in (("notes", _is_text, "sentences"), ("curve", _is_point, "steps and scores")):
        values = result.get(name, [])
        if not isinstance(values, list) or not all(map(is_good, values)):
            return f"{name} is no list of {of}"
    for name in ("quality", "stored"):
        if result.get(name) is not None and not _are_numbers(result[name]):
            return f"{name} holds what is no number"
    return None


def _of_trivial(result: Mapping[str, Any], facts: Any) -> str | None:
    """Returns what is wrong with the trivial answer's scores, which a result has itself, or else its task."""
    holder = result if "trivial" in result else facts
    trivial = holder.get("trivial") if isinstance(holder, Mapping) else None
    if not isinstance(trivial, Mapping) or result["metric"] not in trivial:
        return f"trivial has no {result['metric']}"
    score = trivial[result["metric"]]
    return None if score is None or _is_number(score) else f"trivial's {result['metric']} is no number"


def _of_facts(facts: Any) -> str | None:
    if not isinstance(facts, Mapping):
        return "no object"
    for name in ("absent_classes", "remarks"):
        if not isinstance(facts.get(name, []), list):
            return f"{name} is no list"
    return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_point(point: Any) -> bool:
    return isinstance(point, Mapping) and _is_number(point.get("step")) and _is_number(point.get("score"))


def _are_numbers(values: Any) -> bool:
    return isinstance(values, Mapping) and all(value is None or _is_number(value) for value in values.values())


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
