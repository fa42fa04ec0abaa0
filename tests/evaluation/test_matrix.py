"""The matrix: the order of its cells, what it keeps, how it goes on, and where it stops."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.measuring_folders import mini_camvid, mini_carparts, write_image
from tests.support.scenes import tiny
from tests.support.told_progress import Told
from unseg.compute.progress import SILENT, Progress
from unseg.errors import UserError
from unseg.evaluation import bench_study
from unseg.evaluation import matrix as matrix_module
from unseg.evaluation.baselines.baseline_names import BASELINES
from unseg.evaluation.baselines.tap import TapOptions, tap
from unseg.evaluation.bench_study import BenchSetup
from unseg.evaluation.conditions import Change
from unseg.evaluation.kept_images import kept
from unseg.evaluation.matrix import Bench, Matrix, Pace, finished, measured_pace, tried_pace
from unseg.evaluation.noise_followed import Probe
from unseg.evaluation.on_the_way import OnTheWay
from unseg.evaluation.practice import Practice
from unseg.evaluation.results import Json
from unseg.evaluation.schedule import Schedule
from unseg.evaluation.study import ConditionSource, RunName, Study
from unseg.method.config import Budget
from unseg.report.heat_map import grid_of
from unseg.report.sections import read_sections
from unseg.victims.semantic_networks import NETWORKS

NETWORK = "unet_resnet18"


def brighter(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask[..., None], np.minimum(pixels, 247) + 8, pixels).astype(np.uint8)


def by_codes(pixels: np.ndarray, codes: np.ndarray) -> np.ndarray:
    return brighter(pixels, codes != 255)


def shipped() -> OnTheWay:
    return OnTheWay("compact", brighter, by_codes, 2, {"generator": "0a1b"})


def setup(root: Path, **changes: object) -> BenchSetup:
    made = BenchSetup(
        data_root=root,
        out=root / "out",
        networks=(NETWORK,),
        schedule=Schedule(steps=2, batch=2, eval_every=2, decay="onecycle"),
        practice=Practice(crop=32),
        budget=Budget(8, 2),
        shipped=shipped,
        device="cpu",
    )
    return replace(made, **changes)


def matrix(**changes: object) -> Matrix:
    made = Matrix(("camvid-binary",), ("clean", "tint"), ("none", "grey"), (NETWORK,), (0,))
    return replace(made, **changes)


def runs_of(root: Path, name: str = "camvid-binary") -> list[str]:
    content = json.loads((root / "out" / name / "results.json").read_text())
    return [run["settings"]["condition"] for run in content["runs"]]


# --- order -----------------------------------------------------------------------------------------------------------


def test_what_a_table_needs_first_comes_first() -> None:
    crossed = Matrix(("a", "b"), ("lsp", "clean"), ("grey", "none"), ("one", "two"), (0, 1))
    cells = [(cell.seed, cell.network, cell.set, cell.condition) for cell in crossed.cells()]
    assert cells[:8] == [
        (0, "one", "a", "clean"),
        (0, "one", "a", "lsp"),
        (0, "one", "b", "clean"),
        (0, "one", "b", "lsp"),
        (0, "one", "a", "clean+grey"),
        (0, "one", "a", "lsp+grey"),
        (0, "one", "b", "clean+grey"),
        (0, "one", "b", "lsp+grey"),
    ]
    assert [cell[:2] for cell in cells[8::8]] == [(0, "two"), (1, "one"), (1, "two")]
    assert len(cells) == len(set(cells)) == 32


def test_clean_images_and_no_defence_are_always_measured() -> None:
    assert [cell.condition for cell in Matrix(("a",), ("lsp",), ("grey",), ("one",), (0,)).cells()] == [
        "clean",
        "lsp",
        "clean+grey",
        "lsp+grey",
    ]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sets": ("voc",)}, "--sets: unknown set 'voc'"),
        ({"noises": ("salt",)}, "--noises: unknown noise 'salt'; available: clean, protected"),
        ({"defences": ("jpeg0",)}, "jpeg0"),
        ({"defences": ("grey+grey",)}, "grey stands twice"),
    ],
)
def test_what_there_is_not_is_refused_at_once(changes: dict, told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        Bench(setup(tmp_path), matrix(**changes))
    assert told in str(refused.value)


def test_a_generator_must_be_named_for_the_noise_that_it_makes(tmp_path: Path) -> None:
    mini_camvid(tmp_path)
    with pytest.raises(UserError, match="--generator"):
        Bench(setup(tmp_path), matrix(noises=("protected",))).open()
    Bench(setup(tmp_path, generator=shipped), matrix(noises=("protected",))).open()


def test_noise_that_networks_fit_is_refused_on_images_too_large_for_them(tmp_path: Path) -> None:
    mini_carparts(tmp_path)
    with pytest.raises(UserError, match="--noises tap: fits noise with networks"):
        Bench(setup(tmp_path), matrix(sets=("carparts4000",), noises=("lsp", "tap"))).open()


# --- running ---------------------------------------------------------------------------------------------------------


def test_the_matrix_is_measured_once_and_grows(tmp_path: Path) -> None:
    mini_camvid(tmp_path)
    assert Bench(setup(tmp_path), matrix()).run() == []
    assert runs_of(tmp_path) == ["clean", "tint", "clean+grey", "tint+grey"]
    told = Told()
    more = Bench(setup(tmp_path), matrix(noises=("clean", "tint", "random"), defences=("none",)), told)
    assert [cell.condition for cell in more.left()] == ["random"]
    more.run()
    assert told.sentences[0] == "1 of 1: camvid-binary, unet_resnet18 on random, seed 0"
    assert runs_of(tmp_path)[4:] == ["random"]
    content = json.loads((tmp_path / "out/camvid-binary/results.json").read_text())
    settings = content["runs"][1]["settings"]
    budget = {"object": 8.0, "background": 2.0}
    assert settings["images"] == {"budget": budget, "baseline": "tint", "generator": "0a1b", "by_class": True}
    assert (settings["views"], settings["crop"], settings["set"]) == ("practice", 32, "camvid-binary")
    assert content["runs"][1]["result"]["quality"]["max_change_object"] == 8
    asked = {run["settings"]["condition"] for run in content["runs"] if "follows_noise" in run["result"]["metrics"]}
    assert asked == {"tint"}  # noise that tells classes apart, and no defence
    assert any("CC BY-NC" in remark for remark in content["tasks"]["semantic"]["remarks"])
    (section,) = read_sections(tmp_path / "out/camvid-binary")
    grid = grid_of(section.networks[0], "mIoU")
    assert list(grid.columns) == ["none", "grey"] and len(grid.rows) == 3


def test_networks_are_asked_under_codes_of_another_key_and_under_noise_without_keys_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mini_camvid(tmp_path)
    real, drawn = bench_study.followed, list[tuple[np.ndarray, np.ndarray]]()

    def followed(
        network: nn.Module, device: torch.device, change: Change, probe: Probe, other_key: Change | None = None
    ) -> Json:
        if other_key is not None:
            grey, all_of_it = np.full((40, 56, 3), 128, np.uint8), np.ones((40, 56), bool)
            first, other = (one("a", grey, all_of_it, all_of_it.astype(np.int64)) for one in (change, other_key))
            drawn.append((first, other))
        return real(network, device, change, probe, other_key)

    monkeypatch.setattr(bench_study, "followed", followed)
    Bench(setup(tmp_path), matrix(noises=("clean", "codes", "tint"), defences=("none",))).run()
    content = json.loads((tmp_path / "out/camvid-binary/results.json").read_text())
    metrics = {run["settings"]["condition"]: run["result"]["metrics"] for run in content["runs"]}
    other = "miou_under_another_key"
    assert [condition for condition in metrics if other in metrics[condition]] == ["codes"]
    assert "miou_under_one_noise" in metrics["tint"] and 0 <= metrics["codes"][other] <= 1
    ((first, second),) = drawn
    assert (first != 128).any() and (first != second).mean() > 0.3  # two keys' patterns, of the same code


def test_a_stop_between_trainings_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mini_camvid(tmp_path)
    real, calls = matrix_module.carry_out, []

    def stopped(study: object, held: object, **options: object) -> object:
        calls.append(study)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(study, held, **options)

    monkeypatch.setattr(matrix_module, "carry_out", stopped)
    with pytest.raises(KeyboardInterrupt):
        Bench(setup(tmp_path), matrix()).run()
    assert runs_of(tmp_path) == ["clean", "tint"]
    Bench(setup(tmp_path), matrix()).run()
    assert runs_of(tmp_path) == ["clean", "tint", "clean+grey", "tint+grey"]


def test_a_limit_ends_before_a_training_that_would_pass_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mini_camvid(tmp_path)
    monkeypatch.setattr(matrix_module, "measured_pace", lambda study, network: None)
    clock = iter([0.0, 0.0, 100.0, 4000.0])
    monkeypatch.setattr(matrix_module.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(matrix_module, "carry_out", lambda study, held, progress: None)
    left = Bench(setup(tmp_path), matrix()).run(hours=1)
    assert [cell.condition for cell in left] == ["clean+grey", "tint+grey"]


def test_a_training_that_is_known_to_take_longer_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mini_camvid(tmp_path)
    monkeypatch.setattr(matrix_module, "measured_pace", lambda study, network: Pace(2000.0, True))  # of 2 steps
    assert len(Bench(setup(tmp_path), matrix()).run(hours=1)) == 4


def test_images_of_another_generator_are_measured_anew(tmp_path: Path) -> None:
    mini_camvid(tmp_path)
    small = matrix(defences=("none",))
    Bench(setup(tmp_path), small).run()
    other = replace(shipped(), identity={"generator": "2c3d"})
    bench = Bench(setup(tmp_path, shipped=lambda: other), small)
    assert [cell.condition for cell in bench.left()] == ["tint"]
    assert finished(bench.study("camvid-binary")) == {RunName(NETWORK, "clean", 0)}


# --- time ------------------------------------------------------------------------------------------------------------


def test_a_pace_is_that_of_trainings_where_there_are_some(tmp_path: Path) -> None:
    mini_camvid(tmp_path)
    bench = Bench(setup(tmp_path), matrix(defences=("none",)))
    study = bench.study("camvid-binary")
    assert measured_pace(study, NETWORK) is None
    bench.run()
    path = tmp_path / "out/camvid-binary/results.json"
    content = json.loads(path.read_text())
    for run, seconds in zip(content["runs"], (3.0, 5.0), strict=True):
        run["result"]["seconds"] = seconds
    path.write_text(json.dumps(content))
    assert measured_pace(study, NETWORK) == Pace(2.0, True)  # (3 + 5) / 2 trainings / 2 steps
    assert measured_pace(study, "other") is None
    assert bench.seconds(list(matrix().cells())[:1]) == [4.0]


def test_what_follows_from_a_curve_takes_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mini_camvid(tmp_path)
    monkeypatch.setattr(Bench, "pace", lambda bench, cell: Pace(2.0, True))
    bench = Bench(setup(tmp_path), matrix(noises=("clean",), defences=("early", "grey+early")))
    assert [cell.condition for cell in bench.left()] == ["clean", "clean+early", "clean+grey+early"]
    assert bench.seconds(bench.left()) == [4.0, 0.0, 4.0]  # of 2 steps; nothing is trained under grey alone


def test_a_trial_takes_off_what_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mini_camvid(tmp_path)
    study = Bench(setup(tmp_path), matrix()).study("camvid-binary")
    asked: list[int] = []

    def seconds(_study: Study, _network: str, steps: int) -> float:
        asked.append(steps)
        return 30.0 + 0.5 * steps + (9.0 if len(asked) == 1 else 0.0)  # libraries start at the first one

    monkeypatch.setattr(matrix_module, "_seconds_of", seconds)
    assert tried_pace(study, NETWORK) == Pace(0.5, False)


def test_a_short_trial_that_took_longer_than_the_long_one_does_not_make_steps_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mini_camvid(tmp_path)
    study = Bench(setup(tmp_path), matrix()).study("camvid-binary")
    taken = {1: 1.0, 2: 6.0, 8: 4.0}
    monkeypatch.setattr(matrix_module, "_seconds_of", lambda study, network, steps: taken[steps])
    assert tried_pace(study, NETWORK) == Pace(0.5, False)


def test_a_trial_leaves_nothing_behind(tmp_path: Path) -> None:
    mini_camvid(tmp_path)
    bench = Bench(setup(tmp_path), matrix())
    assert bench.seconds(bench.left())[0] > 0 and not bench.pace(bench.left()[0]).measured
    assert not (tmp_path / "out").exists()


# --- kept images -----------------------------------------------------------------------------------------------------


def counting(calls: list[str], add: int) -> Callable[[int, Progress], Change]:
    def change_of(seed: int, progress: Progress) -> Change:
        calls.append(f"made {seed}")

        def change(name: str, pixels: np.ndarray, mask: np.ndarray, classes: np.ndarray) -> np.ndarray:
            calls.append(name)
            return pixels // 2 + np.uint8(add)

        return change

    return change_of


def test_noise_is_made_once_a_seed_and_read_after_that(tmp_path: Path) -> None:
    pixels = write_image(tmp_path / "x.png", 6, 9)
    mask, classes = np.ones((6, 9), bool), np.zeros((6, 9), int)
    calls: list[str] = []
    for identity, expected in (({"a": 1}, ["made 0", "x/y"]), ({"a": 1}, []), ({"a": 2}, ["made 0", "x/y"])):
        calls.clear()
        source = kept(ConditionSource(counting(calls, 3), identity), tmp_path / "kept", "em", {"train": "0"})
        change = source.change_of(0, SILENT)
        assert np.array_equal(change("x/y", pixels, mask, classes), pixels // 2 + 3)
        assert calls == expected and source.identity == identity
    calls.clear()
    source = kept(ConditionSource(counting(calls, 4), {"a": 1}), tmp_path / "kept", "em", {"train": "0"})
    assert np.array_equal(source.change_of(1, SILENT)("x/y", pixels, mask, classes), pixels // 2 + 4)
    assert calls == ["made 1", "x/y"]


# --- noise that networks make ----------------------------------------------------------------------------------------


def test_noise_that_a_network_makes_can_be_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The trained network is asked without gradients, the noise that it is asked about is made with them.
    mini_camvid(tmp_path)
    fast = Schedule(steps=1, batch=2, eval_every=1)
    aimed = TapOptions(tiny, None, fast, crop=32, steps=1)
    monkeypatch.setitem(BASELINES, "tap", lambda material, seed: tap(material, seed, aimed))
    monkeypatch.setitem(NETWORKS, "tiny_one", tiny)
    small = setup(tmp_path, networks=("tiny_one",), schedule=fast)
    bench = Bench(small, matrix(noises=("clean", "tap"), defences=("none",), networks=("tiny_one",)))
    bench.open()
    assert bench.run() == []
    content = json.loads((tmp_path / "out" / "camvid-binary" / "results.json").read_text())
    assert 0 <= content["runs"][-1]["result"]["metrics"]["follows_image"] <= 1
