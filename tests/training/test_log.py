"""The log: one that outlives a kill at any byte, curves and pictures read back as TensorBoard reads them."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support.told_progress import Told
from unseg.errors import UserError
from unseg.method.config import Budget
from unseg.storage.image_decoding import read_image
from unseg.storage.panels import MISSED, WRONG
from unseg.training import log
from unseg.training.log import Report, TrainingLog, kept_lines, log_line, scalars, sentence
from unseg.training.phases import Phases
from unseg.training.pictures import PictureRow, draw, noise_gain
from unseg.training.recipes import recipe
from unseg.training.validation import SetScore

PAPER = Phases(recipe("paper"), steps_per_epoch=10)
SMOKE = Phases(dataclasses.replace(recipe("smoke"), total_phases=7), steps_per_epoch=10)
SCORES = [
    SetScore("DIS5K-VD", 3, 0, (), 0.9, 0.5, 0.8, 0.4, 0.1, 1.0),
    SetScore("COIFT", 1, 2, ("a", "b"), 0.7, 0.3, 0.6, 0.2, 0.5, 2.0),
    SetScore("void", 0, 5, ("c", "d", "e")),
]


def report(step: int = 20, **changes) -> Report:
    made = Report(
        step=step,
        seconds=12.34,
        losses={"surrogate": 0.25},
        scores=SCORES,
        learning_rates={"generator": 1e-4, "surrogate": 1e-5},
        surrogate_age=7,
    )
    return dataclasses.replace(made, **changes)


def line(step: int = 20, **changes):
    return log_line(
        report(step, **changes), PAPER, images_per_second=31.4159265358, waiting_share=0.125, revision="abc"
    )


def shown(name: str = "cat", height: int = 40, width: int = 60) -> PictureRow:
    pixels = np.full((height, width, 3), 100, np.uint8)
    label, clean, noised = (np.zeros((height, width), bool) for _ in range(3))
    label[:, :30], clean[:, :30], noised[:, 20:40] = True, True, True
    change = np.where(label[..., None], 1.0, -0.25).repeat(3, 2).astype(np.float32)
    return PictureRow(name, pixels, change, (pixels + change).round().astype(np.uint8), label, clean, noised, 1.0, 0.25)


def test_a_line_holds_what_was_measured():
    got = line()
    assert got["epoch"] == 2 and isinstance(got["epoch"], int) and line(5)["epoch"] == 0.5
    assert got["surrogate_loss"] == 0.25 and got["generator_loss"] is None
    assert (
        got["surrogate_noised"] == pytest.approx((3 * 0.1 + 0.5) / 4) and got["surrogate_clean"] == (3 * 1.0 + 2.0) / 4
    )
    assert got["sets"]["COIFT"] == {
        "images": 1,
        "empty": 2,
        "iou_noised": 0.7,
        "iou_clean": 0.3,
        "boundary_iou_noised": 0.6,
        "boundary_iou_clean": 0.2,
        "loss_noised": 0.5,
        "loss_clean": 2.0,
    }
    assert (
        got["sets"]["void"]["iou_clean"] is None and got["images_per_second"] == 31.4159 and got["surrogate_age"] == 7
    )
    assert got["revision"] == "abc" and got["config"] == json.loads(json.dumps(dataclasses.asdict(PAPER.config)))
    assert json.loads(json.dumps(got, allow_nan=False)) == got
    assert json.dumps(got).encode().startswith(log.LINE_START) and got.keys() >= log.OWN_FIELDS


def test_numbers_that_are_not_finite_become_null():
    got = line(losses={"surrogate": math.nan, "generator": math.inf})
    assert got["surrogate_loss"] is None and got["generator_loss"] is None
    tags = scalars(got)
    assert (
        "loss/surrogate" not in tags and tags["iou_noised/DIS5K-VD"] == 0.9 and not any("void" in tag for tag in tags)
    )
    assert tags["rate/waiting_share"] == 0.125 and tags["learning_rate/surrogate"] == 1e-5


def test_a_person_is_told_the_losses_and_what_the_noise_does():
    assert sentence(line()) == (
        "step 20, epoch 2: surrogate loss 0.250; surrogate's loss on validation images: noised 0.200, clean 1.250; "
        "31.4 images a second"
    )
    alone = line(5, losses={"surrogate": math.nan, "generator": 0.5}, scores=[])
    assert sentence(alone) == "step 5, epoch 0.5: generator loss 0.500; 31.4 images a second"


def test_lines_and_checkpoints_come_at_epochs_or_every_few_steps():
    assert PAPER.total_steps == 270 and SMOKE.total_steps == 7
    assert [step for step in range(1, 31) if PAPER.logs_after(step)] == [10, 20, 30]
    assert [step for step in range(1, 8) if SMOKE.logs_after(step)] == [2, 4, 6, 7]  # log_every is 2
    often = Phases(dataclasses.replace(PAPER.config, checkpoint_every=7), steps_per_epoch=10)
    assert [step for step in range(1, 31) if often.saves_after(step)] == [7, 10, 14, 20, 21, 28, 30]
    assert [step for step in range(1, 8) if SMOKE.saves_after(step)] == [4, 7]  # checkpoint_every is 4
    assert [PAPER.phase_of(step) for step in (0, 9, 10, 269)] == [0, 0, 1, 26]
    assert [SMOKE.phase_of(step) for step in (0, 1, 6)] == [0, 1, 6]


@given(st.integers(0, 5), st.data())
def test_a_log_cut_at_any_byte_keeps_its_whole_lines(step, data):
    lines = [
        json.dumps({"step": number, "revision": "ε\nü", "config": {}}, ensure_ascii=False).encode() + b"\n"
        for number in range(1, 6)
    ]
    whole = b"".join(lines)
    cut = data.draw(st.integers(0, len(whole)))
    kept = kept_lines(whole[:cut], step)
    # a line whose line feed alone is missing is whole
    assert kept == b"".join(
        text for number, text in enumerate(lines, 1) if number <= step and len(b"".join(lines[:number])) - 1 <= cut
    )
    assert kept_lines(kept, step) == kept


OWN = '{"step": 1, "revision": "", "config": {}}'


@pytest.mark.parametrize(
    "text, number",
    [(f"{OWN}\nshopping list\n{OWN}\n", 2), ("shopping list", 1), ('{"step": 5}\n', 1), (f"{OWN}\n\n{OWN}", 2)],
)
def test_a_file_that_is_no_log_is_left_alone(tmp_path, text, number):
    path = tmp_path / "log.jsonl"
    path.write_text(text)
    with pytest.raises(UserError, match=f"log.jsonl: line {number} is no line of a training log; move"):
        run(tmp_path, 2, 2)
    assert path.read_text() == text and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "tensorboard").write_text("")
    with pytest.raises(UserError, match="tensorboard: cannot be written .*--no-tensorboard"):
        run(tmp_path, 1, 1, tensorboard=None)
    (tmp_path / "log.jsonl").mkdir()
    with pytest.raises(UserError, match="log.jsonl: cannot be read"):
        run(tmp_path, 1, 1)
    (tmp_path / "log.jsonl").rmdir()
    (tmp_path / "pictures").write_text("")
    with pytest.raises(UserError, match="epoch_001.png: cannot be written"):
        run(tmp_path, 1, 10)


def test_making_a_log_touches_no_disk(tmp_path):
    (tmp_path / "log.jsonl").write_text("shopping list")
    make(tmp_path, tensorboard=None)
    assert (tmp_path / "log.jsonl").read_text() == "shopping list" and len(list(tmp_path.iterdir())) == 1


def make(output, phases=PAPER, step=0, **changes) -> TrainingLog:
    options = {"images_per_step": 8, "revision": "abc", "tensorboard": False, **changes}
    return TrainingLog(output, phases, step=step, **options)


def run(output, first: int, last: int, phases=PAPER, **changes) -> None:
    """Takes the steps from `first` to `last`, those before being done."""
    with make(output, phases, step=first - 1, **changes) as log:
        for step in range(first, last + 1):
            log.count(step, "surrogate", 1 / step, waited=0.0)
            if phases.logs_after(step):
                made = report(step, losses={"surrogate": 1 / step}, learning_rates={"surrogate": 1e-4})
                log.write(dataclasses.replace(made, shown=[shown(), shown("dog")]))


def events(output) -> EventAccumulator:
    found = EventAccumulator(str(output / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    return found.Reload()


def test_log_pictures_and_events_of_a_run_that_was_killed_and_went_on(tmp_path):
    run(tmp_path, 1, 25, tensorboard=None)
    log = tmp_path / "log.jsonl"
    before = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(before) + b'{"step": 30, "epo')  # killed in the middle of a line
    with make(tmp_path, step=10):  # the last checkpoint was that of the first epoch
        assert log.read_bytes() == before[0]
    run(tmp_path, 11, 30, tensorboard=None)
    lines = [json.loads(text) for text in log.read_text().splitlines()]
    assert [entry["step"] for entry in lines] == [10, 20, 30] and [entry["epoch"] for entry in lines] == [1, 2, 3]
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [
        f"epoch_{epoch:03d}.png" for epoch in (1, 2, 3)
    ]

    found = events(tmp_path)
    assert {
        "loss/surrogate",
        "validation/surrogate_noised",
        "validation/surrogate_clean",
        "iou_noised/DIS5K-VD",
        "iou_clean/COIFT",
        "boundary_iou_noised/COIFT",
        "loss_clean/DIS5K-VD",
        "learning_rate/surrogate",
        "rate/images_per_second",
        "rate/waiting_share",
    } <= set(found.Tags()["scalars"])
    curve = found.Scalars("loss/surrogate")
    assert [event.step for event in curve] == [10, 20, 30]  # that of step 20 once, though two runs wrote it
    assert [event.value for event in curve] == pytest.approx([1 / 10, 1 / 20, 1 / 30])
    pictures = found.Images("pictures")
    assert [event.step for event in pictures] == [10, 20, 30]
    on_disk = read_image(tmp_path / "pictures" / "epoch_003.png").pixels
    assert (
        (pictures[-1].height, pictures[-1].width)
        == on_disk.shape[:2]
        == draw([shown(), shown("dog")], PAPER.config.budget).shape[:2]
    )


def test_steps_of_recipes_whose_phases_are_steps(tmp_path):
    run(tmp_path, 1, 3, SMOKE)
    assert [path.name for path in (tmp_path / "pictures").iterdir()] == ["step_000002.png"]
    assert not (tmp_path / "tensorboard").exists()


def test_rates_leave_validation_out_and_count_waiting(tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    with make(tmp_path) as log:
        for step in range(1, 21):
            clock[0] += 2.0  # 8 images in 2 seconds, half a second of it waiting
            log.count(step, "generator", 1.0, waited=0.5 * step)
            if step % 10 == 0:
                clock[0] += 60.0  # validation
                log.write(report(step, losses={}, scores=[]))
    lines = [json.loads(text) for text in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(entry["images_per_second"], entry["waiting_share"]) for entry in lines] == [(4.0, 0.25)] * 2
    assert lines[0]["surrogate_noised"] is None and lines[0]["sets"] == {}


def test_other_processes_write_and_say_nothing(tmp_path):
    told = Told()
    run(tmp_path, 1, 10, leads=False, tensorboard=True, progress=told)
    assert not list(tmp_path.iterdir()) and told.sentences == []


def test_empty_labels_are_told_once(tmp_path):
    told = Told()
    run(tmp_path, 1, 30, progress=told)
    lines = [said for said in told.sentences if said.startswith("step ")]
    assert [said.split(":")[0] for said in lines] == ["step 10, epoch 1", "step 20, epoch 2", "step 30, epoch 3"]
    assert [said for said in told.sentences if said not in lines] == [
        "validation set COIFT: 2 of 3 images show no object and are left out (a, b)",
        "validation set void: 5 of 5 images show no object and are left out (c, d, e, …)",
    ]


def test_tensorboard_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    told = Told()
    run(tmp_path, 1, 10, tensorboard=None, progress=told)
    assert told.sentences[0] == (
        "TensorBoard needs tensorboard, which is not installed; run: pip install 'unseg[train]'; "
        "the log and the pictures are written all the same"
    )
    assert (tmp_path / "log.jsonl").exists() and not (tmp_path / "tensorboard").exists()
    needs = r"needs tensorboard, which is not installed; run: pip install 'unseg\[train\]'"
    with pytest.raises(UserError, match=f"^--tensorboard: {needs}$"):
        run(tmp_path, 11, 11, tensorboard=True)


def test_a_picture_shows_noise_and_answers():
    assert noise_gain(Budget(8, 2)) == 16 and noise_gain(Budget(1, 0.25)) == 128 and noise_gain(Budget(0, 0)) == 16
    item = shown(height=64, width=200)
    item = dataclasses.replace(item, noise=np.full_like(item.noise, -0.25))
    picture = draw([item, item], Budget(1, 0.25))
    height, width = picture.shape[:2]
    assert width == 6 * 200 + 7 * 4 and height > 2 * 64
    top = next(row for row in range(height) if (picture[row, 4:204] == 100).all())
    panel = [picture[top : top + 64, 4 + place * 204 : 204 + place * 204] for place in range(6)]
    assert (panel[0] == 100).all() and (panel[1] == 128 - 32).all() and (panel[2] == item.noised).all()
    for answer, mask in ((panel[3], item.mask_clean), (panel[4], item.mask_noised)):
        assert (answer[item.label & mask] == 255).all() and (answer[~item.label & ~mask] == 0).all()
        assert (answer[~item.label & mask] == WRONG).all() and (answer[item.label & ~mask] == MISSED).all()
    assert np.array_equal(panel[5][..., 0] == 255, item.label)
