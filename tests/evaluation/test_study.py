"""A comparison: what is trained, kept, repeated and refused, and the numbers that come of it."""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.table import Table

from tests.support.going_away import GOING, GONE, a_link_elsewhere, made_anew, removed, renamed
from tests.support.scenes import EVERY_CLASS, HEIGHT, WIDTH, opened, run, same, scene, study_of, tiny
from tests.support.told_progress import Told
from unseg.commands import evaluate_tables
from unseg.data.annotations import ClassMap, ClassTable, ObjectRule
from unseg.errors import UserError
from unseg.evaluation.condition_names import BASES
from unseg.evaluation.conditions import Change, unchanged
from unseg.evaluation.kept_images import kept
from unseg.evaluation.results import REPLACED, Spread, grouped, read_results, rows, spread
from unseg.evaluation.schedule import Schedule
from unseg.evaluation.sets import check_apart
from unseg.evaluation.study import ConditionSource
from unseg.evaluation.tasks import semantic
from unseg.evaluation.tasks.label_arrays import check_labels, read_arrays
from unseg.evaluation.tasks.labelling import BinaryLabelling, TableLabelling
from unseg.storage.image_encoding import write_png
from unseg.victims.semantic_networks import NETWORKS


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS, "tiny_one", tiny)


def refused(call: object, *arguments: object, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def done(task: str, condition: str, miou: float, seed: int = 0) -> dict:
    """A run as results.json holds it, of the network "net"."""
    return {
        "settings": {"task": task, "network": "net", "condition": condition, "seed": seed},
        "result": {"metric": "miou", "final": miou, "best": miou + 0.01, "quality": {"psnr": 35.0}, "train_loss": 0.1},
    }


def printed(table: Table) -> list[str]:
    """The lines of a table on a terminal of 200 columns."""
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    return [line.rstrip() for line in console.export_text().splitlines()]


class Runs(Told):
    """What was trained, and what was kept."""

    @property
    def trained(self) -> list[str]:
        """The runs that had a bar of steps."""
        return [what.removeprefix("tiny_one on ") for what, _, _ in self.bars if what.startswith("tiny_one on ")]

    @property
    def kept(self) -> list[str]:
        """The runs that were done before."""
        told = [text for text in self.sentences if text.endswith(": done before, kept")]
        return [text.removeprefix("tiny_one on ").removesuffix(": done before, kept") for text in told]


def test_unchanged_images_retain_everything(data: Path, tmp_path: Path) -> None:
    """The whole comparison with images that are not changed: both runs are one and the same."""
    results = run(data, tmp_path / "out", same("x"))
    clean, protected = (run["result"] for run in results["runs"])
    assert clean["curve"] == protected["curve"] and protected["quality"]["psnr"] is None
    table = {row.condition: row for row in rows(results)}
    assert list(table) == ["trivial", "clean", "protected"]
    assert table["clean"].final == Spread(clean["final"], None, 1)
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results
    curve = [json.loads(line) for line in (tmp_path / "out" / "curves.jsonl").read_text().splitlines()]
    assert [(line["condition"], line["seed"], line["step"]) for line in curve] == [
        ("clean", 0, 1),
        ("clean", 0, 2),
        ("protected", 0, 1),
        ("protected", 0, 2),
    ]


def test_trivial_is_the_majority_answer_on_the_test_images(data: Path, tmp_path: Path) -> None:
    results = run(data, tmp_path / "out")
    facts = results["tasks"]["binary"]
    test = opened(data, "test")
    labels = [test.annotated(index).values for index in range(len(test))]
    share = sum((label[:-1] != 1).sum() for label in labels) / sum(label[:-1].size for label in labels)
    assert facts["majority_class"] == "background"
    assert facts["trivial"]["miou"] == pytest.approx(share / 2)


def test_rows_compute_retained_learning_for_each_task_and_network() -> None:
    results = {
        "tasks": {
            "binary": {"metric": "miou", "trivial": {"miou": 0.3}},
            "classes": {"metric": "miou", "trivial": {"miou": 0.05}},
        },
        "runs": [
            done("binary", "protected", 0.4),
            done("classes", "clean", 0.45),
            done("binary", "clean", 0.9),
            done("binary", "random", 0.84),
            done("classes", "protected", 0.15),
        ],
    }
    got = {(row.task, row.condition): row.retained for row in rows(results)}
    assert got[("binary", "protected")].mean == pytest.approx(1 / 6)
    assert got[("binary", "random")].mean == pytest.approx(0.9)
    assert got[("classes", "protected")].mean == pytest.approx(0.25)
    assert got[("binary", "clean")] == Spread(1, None, 1) and got[("binary", "trivial")] is None


def test_rows_are_means_over_seeds_each_against_its_own_clean_run() -> None:
    """By hand: clean 0.9, 0.7, 0.5 against trivial 0.1; protected 0.5, 0.1; seed 3 has no clean run."""
    results = {
        "tasks": {"binary": {"metric": "miou", "trivial": {"miou": 0.1}}},
        "runs": [
            *(done("binary", "clean", miou, seed) for seed, miou in enumerate((0.9, 0.7, 0.5))),
            done("binary", "protected", 0.1, 1),
            done("binary", "protected", 0.5, 0),
            done("binary", "protected", 0.3, 3),
            done("binary", "random", 0.4, 3),
        ],
    }
    clean, protected, noise = rows(results)[1:]
    assert (clean.seeds, protected.seeds, noise.seeds) == ((0, 1, 2), (0, 1, 3), (3,))
    assert clean.final == Spread(pytest.approx(0.7), pytest.approx(0.2), 3)
    assert clean.retained == Spread(1, 0, 3)
    assert protected.final == Spread(pytest.approx(0.3), pytest.approx(0.2), 3)
    assert protected.retained == Spread(pytest.approx(0.25), pytest.approx(0.25 * math.sqrt(2)), 2)  # of 0.5 and 0
    assert noise.retained is None
    table = evaluate_tables.result_table("binary", [clean, protected, noise])
    assert list(table.columns[5].cells) == ["1.00±0.00", "0.25±0.35 (n 2)", ""]
    assert list(table.columns[1].cells) == ["0.700±0.200", "0.300±0.200", "0.400"]
    assert list(table.columns[6].cells) == ["3", "3", "1"]


def test_runs_of_an_earlier_generator_are_not_averaged_with_those_of_the_latest() -> None:
    old, new = done("binary", "protected", 0.9, 0), done("binary", "protected", 0.2, 1)
    old["settings"]["images"], new["settings"]["images"] = {"generator": "a"}, {"generator": "b"}
    results = {"tasks": {"binary": {"metric": "miou", "trivial": {"miou": 0.1}}}, "runs": [old, new]}
    assert grouped(results) == {("binary", "net"): {"protected": {1: new["result"]}}}
    assert rows(results)[1].seeds == (1,)


def test_spread_by_hand() -> None:
    assert spread([2.0, None, 4.0, 9.0]) == Spread(5, pytest.approx(math.sqrt(13)), 3)
    assert spread([None, 2.0]) == Spread(2, None, 1)
    assert spread([0.0, None, 1.0]) == Spread(0.5, pytest.approx(math.sqrt(0.5)), 2)  # nothing learnt is a number, too
    assert spread([None]) is None and spread([]) is None


def test_the_closing_table_fits_in_80_columns() -> None:
    runs = [
        done("binary", base + suffix, 0.9, seed) for base in BASES for suffix in ("", "+jpeg100") for seed in range(3)
    ]
    table = rows({"tasks": {"binary": {"metric": "miou", "trivial": {"miou": 0.1}}}, "runs": runs})
    for line in printed(evaluate_tables.result_table("binary, deeplabv3plus_mobilenet_v2", table)):
        assert len(line) <= 80 and "…" not in line


SCORES = (("clean", "", 0.8), ("random", "", 0.5), ("clean", "+resize64", 0.6), ("random", "+resize64", 0.5))


def test_retained_learning_takes_the_trivial_answer_of_its_own_test_images() -> None:
    """A defence that shrinks test images may leave a class out, and an answer that was not learned scores more then."""
    runs = [done("semantic", base + suffix, final, 0) for base, suffix, final in SCORES]
    for one in runs:
        one["result"]["trivial"] = {"miou": 0.4 if "resize64" in one["settings"]["condition"] else 0.2}
    results = {"tasks": {"semantic": {"metric": "miou", "trivial": {"miou": 0.2}}}, "runs": runs}
    found = {row.condition: row.retained.mean for row in rows(results) if row.retained is not None}
    assert found["random"] == pytest.approx((0.5 - 0.2) / (0.8 - 0.2))
    assert found["random+resize64"] == pytest.approx((0.5 - 0.4) / (0.6 - 0.4))


def test_finished_runs_are_kept_and_others_repeated(data: Path, tmp_path: Path) -> None:
    out, first, second, third = tmp_path / "out", Runs(), Runs(), Runs()
    run(data, out, progress=first)
    before = run(data, out, same("x"), second)
    after = run(data, out, same("y"), third)
    assert (first.trained, first.kept) == (["clean, seed 0"], [])
    assert (second.trained, second.kept) == (["protected, seed 0"], ["clean, seed 0"])
    assert (third.trained, third.kept) == (["protected, seed 0"], ["clean, seed 0"])
    assert len(before["runs"]) == len(after["runs"]) == 2
    # What was there is not lost, and the person is told.
    (line,) = (out / REPLACED).read_text().splitlines()
    assert json.loads(line) == before["runs"][1] != after["runs"][1]
    told = "was measured with other images (images.files: x, now y) and is measured anew; replaced.jsonl keeps"
    assert [text for text in third.sentences if told in text] and not any(REPLACED in text for text in second.sentences)
    run(data, out, same("x"))
    assert len((out / REPLACED).read_text().splitlines()) == 2


EDITED = [  # from a path in results.json to its new value, and what is told
    (("runs", 0, "result", "metric"), None, "metric is no name"),
    (("runs", 0, "result", "final"), "x", "final is no number"),
    (("runs", 0, "result", "final"), float("nan"), "final is no number"),
    (("runs", 0, "result", "train_loss"), "x", "train_loss is no number"),
    (("runs", 0, "result", "best"), [], "best is no number"),
    (("runs", 0, "result", "notes"), None, "notes is no list of sentences"),
    (("runs", 0, "result", "notes"), [1], "notes is no list of sentences"),
    (("runs", 0, "result", "curve"), [{"step": 1}], "curve is no list of steps and scores"),
    (("runs", 0, "result", "quality"), [1], "quality holds what is no number"),
    (("runs", 0, "result", "trivial"), None, "trivial has no miou"),
    (("runs", 0, "result", "trivial"), {"miou": "x"}, "trivial's miou is no number"),
    (("runs", 0, "settings", "task"), "instance", "no task 'instance' in tasks"),
    (("tasks", "binary", "absent_classes"), 5, "absent_classes is no list"),
]


@pytest.mark.parametrize(("place", "value", "said"), EDITED, ids=lambda value: str(value)[-40:])
def test_edited_results_are_refused_before_anything_is_trained(
    place: tuple, value: object, said: str, data: Path, tmp_path: Path
) -> None:
    content = run(data, tmp_path / "out")
    inner = content
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    (tmp_path / "out" / "results.json").write_text(json.dumps(content))
    told = Runs()
    with pytest.raises(UserError, match=f"not as unseg evaluate writes it \\(.*{re.escape(said)}\\); put a whole one"):
        run(data, tmp_path / "out", same("x"), told)
    assert told.trained == []


def test_seeds_add_up_in_one_file(data: Path, tmp_path: Path) -> None:
    """Seed by seed; what is there is kept; a run is the same whether it was made alone or with others."""
    out, told, seen = tmp_path / "out", Runs(), []

    def change_of(seed: int, progress: object) -> Change:
        seen.append(seed)
        return unchanged

    run(data, out, same("x"), seeds=(1,))
    results = run(data, out, {"protected": ConditionSource(change_of, {"files": "x"})}, told, seeds=(0, 1, 2))
    assert told.trained == ["clean, seed 0", "protected, seed 0", "clean, seed 2", "protected, seed 2"]
    assert told.kept == ["clean, seed 1", "protected, seed 1"]
    assert seen == [0, 2]
    losses = {
        (run["settings"]["condition"], run["settings"]["seed"]): run["result"]["train_loss"] for run in results["runs"]
    }
    assert len(losses) == 6 and all(losses["clean", seed] == losses["protected", seed] for seed in (0, 1, 2))
    assert len(set(losses.values())) == 3
    assert [(row.condition, row.seeds) for row in rows(results)] == [
        ("trivial", ()),
        ("clean", (0, 1, 2)),
        ("protected", (0, 1, 2)),
    ]


def test_runs_that_cannot_be_compared_are_refused(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(data, out)
    with pytest.raises(UserError, match="made with steps: 2, now 3; give another --out"):
        run(data, out, schedule=Schedule(steps=3, batch=2, eval_every=1))
    with pytest.raises(UserError, match=r"made with objects: \[1\], now \[2\]"):
        run(data, out, rule=ObjectRule((2,)))
    pixels, _ = scene(np.random.default_rng(9))
    write_png(data / "images" / "test" / "test0.png", pixels)
    with pytest.raises(UserError, match="made with other test images or annotations than these: .*; hash: "):
        run(data, out)
    both = run(data, out, binary=False, rule=EVERY_CLASS)
    assert both["tasks"].keys() == {"binary", "semantic"}


def test_results_of_earlier_versions_are_read_but_not_mixed_with_todays(data: Path, tmp_path: Path) -> None:
    """Version 0.1 called the binary task so, too, and named its data otherwise; those runs stay as they are."""
    out = tmp_path / "out"
    results = run(data, out)
    settings = results["runs"][0]["settings"]
    for name in ("objects", "ignore_label", "background_label", "colour_jitter", "options"):
        del settings[name]
    settings["object_classes"] = [1]
    (out / "results.json").write_text(json.dumps(results))
    before = (out / "results.json").read_bytes()
    read = read_results(out / "results.json")
    assert read["runs"][0]["settings"]["test_split"] == "test" and len(rows(read)) == 2
    assert "its runs of task binary were made with colour_jitter: null, now false" in refused(run, data, out)
    assert (out / "results.json").read_bytes() == before


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parents[2].glob("docs/results/*.json")), ids=lambda path: path.stem
)
def test_the_published_results_can_be_read(path: Path) -> None:
    results = read_results(path)
    table = rows(results)
    assert len(table) > 2 and all(row.retained.mean == pytest.approx(1) for row in table if row.condition == "clean")


def test_classes_that_the_test_images_lack_are_named(data: Path, tmp_path: Path) -> None:
    test = opened(data, "test")
    for index, name in enumerate(test.names):
        classes = test.annotated(index).values
        write_png(data / "labels" / "test" / name, np.where(classes == 2, 0, classes).astype(np.uint8))
    study = {"binary": False, "rule": EVERY_CLASS}
    results = run(data, tmp_path / "out", **study)
    assert results["tasks"]["semantic"]["absent_classes"] == ["2"]
    assert results["runs"][0]["result"]["metrics"]["class_iou"]["2"] is None
    remarks = evaluate_tables.remarks(results, study_of(data, tmp_path / "out", **study))
    assert any("classes 2" in line for line in remarks)


# --- what is written, and when ---------------------------------------------------------------------------------------


class Acting(Runs):
    """Does something once a sentence begins with `when`."""

    def __init__(self, when: str, act: Callable[[], object]) -> None:
        super().__init__()
        self.when, self.act = when, act

    def say(self, text: str) -> None:
        super().say(text)
        if text.startswith(self.when):
            self.act()


def lines(out: Path) -> list[tuple[str, int]]:
    """What curves.jsonl holds."""
    read = [json.loads(line) for line in (out / "curves.jsonl").read_text().splitlines()]
    return [(line["condition"], line["step"]) for line in read]


def test_another_process_is_refused_while_one_writes(data: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "out", []
    acting = Acting("tiny_one on clean, seed 0, step 1:", lambda: told.append(refused(run, data, out, seeds=(1,))))
    results = run(data, out, progress=acting)
    assert [run["settings"]["seed"] for run in results["runs"]] == [0]
    assert told and told[0].startswith(f"--out {out}: process {os.getpid()} on ")
    run(data, out, seeds=(1,))  # it is free again


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("act", GOING)
def test_an_output_that_goes_away_ends_the_study(
    data: Path, tmp_path: Path, act: Callable[[Path], None], step: int
) -> None:
    """Between the first test and its checkpoint, and between the last one and the results."""
    out = tmp_path / "out"
    message = refused(run, data, out, progress=Acting(f"tiny_one on clean, seed 0, step {step}:", lambda: act(out)))
    assert re.match(GONE, message)
    if act in (removed, renamed):
        assert not out.exists()
    if act in (a_link_elsewhere, made_anew):
        assert list(out.iterdir()) == []  # nothing is written where the study holds nothing


def test_images_that_are_kept_do_not_make_a_folder_anew_that_went_away(tmp_path: Path) -> None:
    out = tmp_path / "out"
    noisy = ConditionSource(lambda seed, progress: lambda image, pixels, mask, classes: 255 - pixels, {"files": "x"})
    change = kept(noisy, out / "images", "protected", {}).change_of(0, Runs())
    with pytest.raises(UserError, match="cannot be written"):
        change("a", np.zeros((3, 5, 3), np.uint8), np.ones((3, 5), bool), np.ones((3, 5), np.uint8))
    assert not out.exists()


def test_a_training_that_is_repeated_leaves_one_line_a_step(data: Path, tmp_path: Path) -> None:
    """It was killed behind a test and before the checkpoint of that step, in the middle of a line."""

    def kill() -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(data, out, progress=Acting("tiny_one on clean, seed 0, step 2:", kill))
    assert lines(out) == [("clean", 1), ("clean", 2)]
    with open(out / "curves.jsonl", "a") as file:
        file.write('"of somebody else"\n{"task": "binary", "netw')
    again = Runs()
    run(data, out, progress=again)
    assert again.sentences[0] == "tiny_one on clean, seed 0: goes on from step 1"
    content = (out / "curves.jsonl").read_text().splitlines()
    assert [json.loads(content[at])["step"] for at in (0, 2)] == [1, 2] and content[1] == '"of somebody else"'
    assert len(content) == 3


def test_what_a_killed_process_left_half_written_goes(data: Path, tmp_path: Path) -> None:
    left = [tmp_path / "out" / "checkpoints" / f".unseg-{17:016x}.tmp", tmp_path / "out" / f".unseg-{18:016x}.tmp"]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    run(data, tmp_path / "out")
    assert not any(path.exists() for path in left)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "checkpoints",
        "curves.jsonl",
        "examples",
        "results.json",
    ]


def test_every_file_is_on_the_disk_before_it_has_its_name(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss of power leaves whole files: each is synced before it is renamed."""
    events: list[str] = []
    sync, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (events.append("sync"), sync(descriptor))[1])
    monkeypatch.setattr(os, "replace", lambda old, new: (events.append(Path(new).suffix), rename(old, new))[1])
    run(data, tmp_path / "out")
    assert {".json", ".jsonl", ".pt", ".png"} <= set(events)
    assert all(events[at - 1] == "sync" for at, event in enumerate(events) if event != "sync")


def test_a_disk_without_room_is_told_before_anything_is_trained(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    told = Runs()
    message = refused(run, data, tmp_path / "out", progress=told)
    assert message.startswith(f"{tmp_path / 'out' / 'checkpoints'}: has no room for ") and "No space left" in message
    assert told.trained == [] and not list((tmp_path / "out").rglob("*.tmp"))


def test_a_checkpoint_that_does_not_fit_is_one_line(data: Path, tmp_path: Path) -> None:
    """Every file is one that could be there: the right settings, and something else that is not this run's."""

    def stop() -> None:
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run(data, out, progress=Acting("tiny_one on clean, seed 0, step 2:", stop))
    (path,) = (out / "checkpoints").glob("*.pt")
    whole = torch.load(path, weights_only=True)
    name, weight = next(iter(whole["model"].items()))
    first = whole["optimizer"]["state"][0]
    wrong = {
        "no model": {"model": {}},
        "another size": {"model": {**whole["model"], name: weight[:1]}},
        "expanded": {"model": {**whole["model"], name: torch.zeros(1).expand(10**6, 10**6)}},
        "sparse": {"model": {**whole["model"], name: weight.to_sparse()}},
        "a list": {"model": [1]},
        "no optimizer": {"optimizer": {}},
        "other numbers": {"optimizer": {"state": {10**9: first}}},
        "other names": {"optimizer": {"state": {0: {"momentum_buffer": weight}}}},
        "other shapes": {"optimizer": {"state": {0: {**first, "exp_avg": torch.zeros(7)}}}},
        "a text": {"optimizer": {"state": {0: {**first, "exp_avg": "x"}}}},
        "step below 0": {"step": -1},
        "step in text": {"step": "1"},
        "images of others": {"pool": torch.tensor([10**6])},
        "pool of fractions": {"pool": torch.tensor([0.5])},
        "random": {"random": {"cpu": [torch.zeros(3, dtype=torch.uint8)]}},
        "curve": {"curve": [{"step": 1}]},
        "metrics": {"metrics": "["},
        "settings": {"settings": 1},
    }
    for what, change in wrong.items():
        torch.save({**whole, **change}, path)
        message = refused(run, data, out)
        assert str(path) in message and message.endswith("remove it and the run starts anew"), (what, message)
    path.unlink()
    run(data, out)


def test_foreign_results_are_not_overwritten(data: Path, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("[1, 2]")
    assert "not the results of unseg evaluate" in refused(run, data, tmp_path)
    assert (tmp_path / "results.json").read_text() == "[1, 2]"
    (tmp_path / "results.json").write_text('{"tasks": {}, "runs": [{"settings": {"task": "binary"}, "result": {}}]}')
    assert "not the results of unseg evaluate" in refused(read_results, tmp_path / "results.json")


def test_progress_tells_steps_reading_and_measures(data: Path, tmp_path: Path) -> None:
    told = Runs()
    run(data, tmp_path / "out", same("x"), told, conditions=("protected@50",))
    assert told.bars == [
        ("reading training images", 6, 6),
        ("reading test images", 3, 3),
        ("tiny_one on protected@50, seed 0", 2, 2),
        ("measuring the images of protected@50", 3, 3),
    ]
    assert [text.partition(":")[0] for text in told.sentences] == [
        "tiny_one on protected@50, seed 0, step 1",
        "tiny_one on protected@50, seed 0, step 2",
    ]


# --- labels ----------------------------------------------------------------------------------------------------------


def test_binary_labels_by_hand() -> None:
    """1 on the object, 0 on the rest, 255 where nothing is labelled; both must be there."""
    values = np.array([[0, 3, 4, 10, 255]], np.uint8)
    labelling = BinaryLabelling(ObjectRule((3, 4)), False)
    maps = labelling.class_map(ClassMap(values, "index", ClassTable()))
    assert maps.dtype == np.uint8 and maps.tolist() == [[0, 1, 1, 0, 255]]
    assert labelling.names(maps) == ["background", "object"]
    assert "--binary: no training image shows object" in refused(labelling.names, np.array([0, 255]))
    assert "--binary: no training image shows background" in refused(labelling.names, np.array([1, 255]))


def test_a_test_image_among_the_training_images_is_named(data: Path) -> None:
    train, test = opened(data).files, opened(data, "test").files
    check_apart(train, test)
    test[1].write_bytes(train[4].read_bytes())
    message = refused(check_apart, train, test)
    assert "test1.png" in message and "train4.png" in message


def test_labels_of_another_size_or_range_are_named(data: Path) -> None:
    write_png(data / "labels" / "train" / "train2.png", np.zeros((HEIGHT, WIDTH // 2), np.uint8))
    labelling = TableLabelling(ClassTable(), ObjectRule(), False)
    message = refused(read_arrays, opened(data), (WIDTH, HEIGHT), labelling)
    assert "train2.png: has 1536 pixels, 64×48 are expected" in message
    assert "class 7 is out of range" in refused(check_labels, np.array([0, 7, 255]), 3, "labels")
    assert "no pixel" in refused(check_labels, np.array([255]), 3, "labels")
    check_labels(np.array([0, 2, 255]), 3, "labels")


def test_metrics_of_a_perfect_and_a_trivial_network(data: Path) -> None:
    """A network that answers the majority everywhere has exactly the trivial mIoU; one that knows the labels has 1."""
    arrays = read_arrays(opened(data, "test"), (WIDTH, HEIGHT), TableLabelling(ClassTable(), ObjectRule(), False))
    classes, device = arrays.maps, torch.device("cpu")

    class Constant(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.tensor([1.0, 0.0, 0.0])[None, :, None, None].expand(len(pixels), 3, *pixels.shape[-2:])

    class Knowing(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            truth = torch.from_numpy(np.where(classes == 255, 0, classes).astype(np.int64))
            return torch.nn.functional.one_hot(truth, 3).permute(0, 3, 1, 2).float()

    learner = semantic.SemanticLearner(tiny, arrays, arrays, "abc")
    share = (classes == 0).sum() / (classes != 255).sum()  # of class 0, which is the majority
    assert learner.evaluate(Constant(), device)["class_iou"] == {"a": pytest.approx(share), "b": 0, "c": 0}
    assert learner.evaluate(Constant(), device) == learner.trivial
    assert learner.evaluate(Knowing(), device) == {
        "miou": 1,
        "pixel_accuracy": 1,
        "class_iou": {"a": 1, "b": 1, "c": 1},
    }
