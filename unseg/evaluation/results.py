"""results.json: every run of a comparison, and what they come to over their seeds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unseg.errors import UserError
from unseg.evaluation.condition_names import TRIVIAL, clean_beside, clean_of, in_order
from unseg.evaluation.results_check import fault_of
from unseg.method import metrics
from unseg.storage.files import open_for_reading, read_text, remove_temporaries, write_durably
from unseg.storage.locks import FolderLock, Held, writing_into
from unseg.storage.settings_diff import differences

Json = dict[str, Any]
REMEDY = "put a whole one in its place, or measure into another folder"
REPLACED = "replaced.jsonl"  # runs whose place another took
FILES = {  # what a hash of files stands for
    "train": "other training images or annotations than these: a file there was changed, added or removed; hash",
    "test": "other test images or annotations than these: a file there was changed, added or removed; hash",
}
PRACTICE = "practice"  # what the setting "views" says of runs with views as in practice; others do not have it


class Results:
    """The file OUT/results.json: {"tasks": {task: facts}, "runs": [{"settings": …, "result": …}]}.

    The process that writes holds the folder, see `results_folder`; others may read.
    """

    def __init__(
        self, out: Path, common: Json, facts: Json, networks: Mapping[str, Json], held: Held | None = None
    ) -> None:
        """common: the settings that every run of the task shares. facts: what every table of the task needs. networks:
        for each network the settings that all its runs share besides; None where they are not to have one. held: the
        folder as this process holds it; None where it only reads. Raises UserError where the file holds runs of other
        settings.
        """
        self.path, self.curves, self.held = out / "results.json", out / "curves.jsonl", held
        self.replaced = out / REPLACED
        self.common, self.facts, self.networks = common, facts, networks
        self.content()

    def content(self) -> Json:
        """Returns what the file holds, with this task's facts.

        Raises UserError where its runs cannot be compared with this one's.
        """
        content = read_results(self.path) if self.path.exists() else {"tasks": {}, "runs": []}
        fault = fault_of(content)
        if fault is not None:
            raise _edited(self.path, fault)
        for run in content["runs"]:
            if run["settings"]["task"] == self.common["task"]:
                self._check(run["settings"])
        name = self.facts["task"]
        content["tasks"][name] = {**content["tasks"].get(name, {}), **self.facts}
        return content

    def _check(self, before: Json) -> None:
        """Raises UserError where a run's settings are not those that the task's runs share."""
        shared = {key: before.get(key) for key in self.common}
        for phrase in differences(shared, self.common, words=FILES):
            raise UserError(
                f"--out {self.path.parent}: its runs of task {self.common['task']} were made with {phrase}; "
                "give another --out"
            )
        network = before["network"]
        now = self.networks.get(network, {})
        for phrase in differences({name: before.get(name) for name in now}, now):
            raise UserError(
                f"--out {self.path.parent}: its runs of {network} were made with {phrase}; give another --out"
            )

    def add_facts(self, more: Json, of_clean: bool) -> None:
        """Adds what only learners know of the task.

        of_clean: whether the run's test images are the set's own. Other runs tell only what none has told before.
        """
        known = {**self.content()["tasks"][self.facts["task"]], **self.facts}
        self.facts = {**self.facts, **{name: value for name, value in more.items() if of_clean or name not in known}}

    def holds(self, settings: Json) -> bool:
        """Returns whether there is a run of these settings."""
        return self.result_of(settings) is not None

    def result_of(self, settings: Json) -> Json | None:
        """Returns the result of the run of these settings; None where there is none."""
        return next((run["result"] for run in self.content()["runs"] if run["settings"] == settings), None)

    def differences_of(self, settings: Json) -> list[str]:
        """Returns in which words a run that is there differs from one of these settings, which will take its place."""
        same = [run["settings"] for run in self.content()["runs"] if _key(run["settings"]) == _key(settings)]
        return [phrase for before in same for phrase in differences(before, settings)]

    def add(self, settings: Json, result: Json) -> None:
        """Adds a run in place of one of the same task, network, condition and seed, and writes the file.

        The one whose place it takes goes to OUT/replaced.jsonl.
        """
        with writing_into(self.held):
            content = self.content()
            before = [run for run in content["runs"] if _key(run["settings"]) == _key(settings)]
            if before:
                lines = "".join(json.dumps(run, ensure_ascii=False) + "\n" for run in before).encode()
                write_durably(self.replaced, b"".join(_lines_of(self.replaced)) + lines)
            content["runs"] = [run for run in content["runs"] if _key(run["settings"]) != _key(settings)]
            content["runs"].append({"settings": settings, "result": result})
            write_durably(self.path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())

    def log(self, line: Json) -> None:
        """Adds an evaluation to curves.jsonl.

        A training that was stopped after its last checkpoint comes to the same steps once more: the lines that it left
        there go, and so does a line that a killed process did not finish.
        """
        with writing_into(self.held):
            kept = [text for text in _lines_of(self.curves) if text.endswith(b"\n") and not _is_repeated(text, line)]
            write_durably(self.curves, b"".join(kept) + json.dumps(line).encode() + b"\n")


def _lines_of(path: Path) -> list[bytes]:
    try:
        with open_for_reading(path) as file:
            return file.readlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); move it away") from None


def _is_repeated(text: bytes, line: Json) -> bool:
    """Returns whether a line is of the same training as `line`, and of the same step or a later one."""
    try:
        before = json.loads(text)
        return _key(before) == _key(line) and before["step"] >= line["step"]
    except (ValueError, TypeError, LookupError, RecursionError):  # of somebody else
        return False


@contextmanager
def results_folder(out: Path, leads: bool = True) -> Iterator[Held | None]:
    """Inside, this process alone writes into `out`, which is made, and what a killed one left half written is gone.

    Yields the folder as it is held then. leads: whether this is the process that writes; the others of a `World` hold
    nothing. UserError where another holds the folder, or where it cannot be written.
    """
    if not leads:
        yield None
        return
    with FolderLock(out) as lock:
        try:
            remove_temporaries(out)
        except OSError as error:
            raise UserError(f"--out {out}: cannot be written: {error.strerror or error}") from None
        yield lock.held


def _key(settings: Json) -> tuple[str, str, str, int]:
    return settings["task"], settings["network"], settings["condition"], settings["seed"]


def read_results(path: Path) -> Json:
    """Returns the content of a results.json, of whatever version, in today's schema.

    Raises UserError where the file is none.
    """
    try:
        content = json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a readable results.json ({error}); {REMEDY}") from None
    if not (
        isinstance(content, dict)
        and isinstance(content.get("tasks"), dict)
        and isinstance(content.get("runs"), list)
        and all(map(_is_run, content["runs"]))
    ):
        raise UserError(f"{path}: not the results of unseg evaluate; {REMEDY}")
    try:
        return upgraded(content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _edited(path, f"{type(error).__name__}: {error}") from None


def _edited(path: Path, fault: str) -> UserError:
    return UserError(f"{path}: not as unseg evaluate writes it ({fault}); {REMEDY}")


# What older versions did without saying so; the first ones knew no other test split.
FORMER_SCHEDULE = {"optimizer": "adamw", "momentum": 0.9, "decay": "cosine", "warm_up": 0.1, "clip": None}


def upgraded(content: Json) -> Json:
    """Returns the content of an older file in today's schema: mIoU was the only metric, and had its own names."""
    for facts in content["tasks"].values():
        if "trivial_miou" in facts:
            facts["metric"], facts["trivial"] = "miou", {"miou": facts.pop("trivial_miou")}
            facts["absent_classes"] = [str(label) for label in facts.get("absent_classes", ())]
    for run in content["runs"]:
        settings = run["settings"]
        if "object_classes" in settings:  # of the tasks binary and classes, when they had data of their own layout
            settings.setdefault("test_split", "test")
        if "final_miou" in run["result"]:
            for name, value in FORMER_SCHEDULE.items():
                settings.setdefault(name, value)
            settings.pop("num_classes", None)  # follows from the data
            run["result"] = _upgraded_result(run["result"])
    return content


def _upgraded_result(result: Json) -> Json:
    iou = result.pop("per_class_iou", None)
    result |= {"metric": "miou", "final": result.pop("final_miou"), "best": result.pop("best_miou", None)}
    result["metrics"] = {"miou": result["final"]}
    if iou is not None:
        result["metrics"]["class_iou"] = {str(label): value for label, value in enumerate(iou)}
    for point in result.setdefault("curve", []):
        point["score"] = point.pop("miou")
    names = [name for name in ("psnr", "max_change_object", "max_change_background") if name in result]
    changed = {name: result.pop(name) for name in names}
    result["quality"] = changed if changed.get("psnr") is not None else None
    return result


def _is_run(run: object) -> bool:
    return (
        isinstance(run, dict)
        and isinstance(run.get("settings"), dict)
        and isinstance(run.get("result"), dict)
        and all(isinstance(run["settings"].get(name), str) for name in ("task", "network", "condition"))
        and type(run["settings"].get("seed")) is int
    )


@dataclass(frozen=True)
class Spread:
    """A number over seeds. sd: sample standard deviation; None where there is one seed. count: how many seeds there
    are.
    """

    mean: float
    sd: float | None
    count: int


def spread(values: Iterable[float | None]) -> Spread | None:
    """Returns the spread of the values that are not None; None where there is none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


@dataclass(frozen=True)
class Row:
    """A line of the closing table: a condition over its seeds.

    seeds: rising; empty for the trivial answer, which has none. final, best: of the task's metric; None where no run
    tells it. psnr: of the change, dB. retained: share of what is learnt from clean images that went through the same
    defences, each seed against the clean run of that seed, so over those seeds that have one; None where there is no
    such seed, or no meaning.
    """

    task: str
    network: str
    condition: str
    seeds: tuple[int, ...]
    final: Spread | None
    best: Spread | None
    psnr: Spread | None
    train_loss: Spread | None
    retained: Spread | None


def grouped(results: Json) -> dict[tuple[str, str], dict[str, dict[int, Json]]]:
    """Returns (task, network) → condition, in the order of tables → seed, rising → the run's result.

    A condition's runs whose images were made otherwise than its latest run's (by another generator, say) are left out:
    they are what an interruption leaves of an earlier comparison.
    """
    latest = {_key(run["settings"])[:3]: run["settings"].get("images") for run in results["runs"]}
    groups: dict[tuple[str, str], dict[str, dict[int, Json]]] = {}
    for run in results["runs"]:
        task, network, condition, seed = _key(run["settings"])
        if run["settings"].get("images") == latest[task, network, condition]:
            groups.setdefault((task, network), {}).setdefault(condition, {})[seed] = run["result"]
    return {
        which: {condition: dict(sorted(conditions[condition].items())) for condition in in_order(conditions)}
        for which, conditions in groups.items()
    }


def trivial_score(results: Json, task: str, runs: dict[str, dict[int, Json]]) -> float:
    """Returns the trivial answer's value of the metric: what the network's own runs say, else what the task's facts
    say.
    """
    facts = results["tasks"][task]
    for result in (result for seeds in runs.values() for result in seeds.values()):
        if "trivial" in result:
            return result["trivial"][result["metric"]] or 0.0
    return facts["trivial"][facts["metric"]] or 0.0


def as_people_train(results: Json, task: str) -> bool:
    """Returns whether a task's runs saw views as in practice, which all of them share."""
    return any(run["settings"].get("views") == PRACTICE for run in results["runs"] if run["settings"]["task"] == task)


def clean_runs_that_lack(results: Json, task: str) -> list[str]:
    """Returns the clean conditions of a task without which retained learning of another one has no meaning."""
    lacking = []
    for (of, _), conditions in grouped(results).items():
        names = conditions if of == task and as_people_train(results, task) else ()
        lacking += [clean_of(name) for name in names if clean_beside(name, conditions, strict=True) is None]
    return list(dict.fromkeys(lacking))


def rows(results: Json) -> list[Row]:
    """Returns the rows of every task and network: trivial, then the conditions that were run."""
    table = []
    for (task, network), conditions in grouped(results).items():
        trivial = trivial_score(results, task, conditions)
        level = Spread(trivial, None, 1)
        table.append(Row(task, network, TRIVIAL, (), level, level, None, None, None))
        strict = as_people_train(results, task)
        for condition, runs in conditions.items():
            clean = conditions.get(clean_beside(condition, conditions, strict=strict) or "", {})
            final, best, loss = (
                spread(run.get(name) for run in runs.values()) for name in ("final", "best", "train_loss")
            )
            ratio = spread((run.get("quality") or {}).get("psnr") for run in runs.values())
            retained = spread(
                metrics.retained_learning(run["final"], clean[seed]["final"], _own_trivial(run, trivial))
                for seed, run in runs.items()
                if seed in clean
            )
            table.append(Row(task, network, condition, tuple(runs), final, best, ratio, loss, retained))
    return table


def _own_trivial(result: Json, otherwise: float) -> float:
    """Returns the trivial answer's metric on a run's own test images, which some defences change."""
    own = result.get("trivial", {}).get(result["metric"])
    return otherwise if own is None else own


def shown_metric(name: str) -> str:
    """Returns what a table calls a metric."""
    return {"miou": "mIoU"}.get(name, name)
