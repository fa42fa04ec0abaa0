"""The bilevel training of coded generators: who moves, what it is asked, and that a resumed run is the unbroken one."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks import learn_codes
from benchmarks.bilevel_codes import (
    Batch,
    Coding,
    Learning,
    Part,
    Photographs,
    VictimKind,
    cross_entropy,
    draw_batch,
    looked_up,
    published,
)
from benchmarks.learn_codes import Trained, Until, learn, take_step
from segment_anything_training.coded import CodedGenerator
from tests.support.training_runs import final_state, same
from unseg.errors import UserError
from unseg.method.coded_noise import apply_codes
from unseg.method.config import Budget
from unseg.method.patterns import ABSENCE, BOOK
from unseg.storage.coded_weights import load_coded
from unseg.training.checkpoints import RunFolder

TINY = Learning(
    visibility=0.5,
    batch=2,
    crop=32,
    victims=(VictimKind("fpn_mobilenet_v2", 3, False), VictimKind("fpn_mobilenet_v2", 50, False)),
    victim_steps=1,
    young=0,
    readout_life=3,
    readout_imagenet=False,
    widths=(8, 16),
)
CODING = Coding({0: 0, 1: 5, 2: 9, 3: 9}, bytes(32))


def made_photographs() -> Photographs:
    random = np.random.default_rng(0)
    images, labels = [], []
    for width in (70, 91, 64):
        label = np.zeros((60, width), np.uint8)
        label[5:40, 9:41], label[30:55, 33:60], label[:8, -6:] = 1, 2, 255
        images.append(random.integers(0, 256, (60, width, 3)).astype(np.uint8))
        labels.append(label)
    return Photographs(images, labels, 4)


# --- codes and answers


def test_who_goes_by_codes_answers_their_owner():
    given = {0: 5, 1: 0, 2: 9, 3: 5}
    # Class 2 keeps a code that it shares with class 3; all else is read as the one owner of what it carries.
    assert CODING.answers(given) == {0: 1, 1: 0, 2: 2, 3: 1}
    assert CODING.answers({0: 9, 1: 9, 2: 0, 3: 0}) == {0: 255, 1: 255, 2: 0, 3: 0}
    assert CODING.answers(CODING.codes) == {0: 0, 1: 1, 2: 2, 3: 3}
    assert looked_up(np.array([[3, 0, 255]], np.uint8), {0: 1, 3: 255}).tolist() == [[255, 1, 255]]


def test_lives_have_one_code_or_a_code_a_class_and_always_absence():
    random = np.random.default_rng(3)
    drawn = [Coding.draw(Learning(), 7, random) for _ in range(200)]
    assert all(sorted(coding.codes) == list(range(7)) and len(coding.key) == 32 for coding in drawn)
    assert all(list(coding.codes.values()).count(ABSENCE) == 1 for coding in drawn)
    kinds = [len(set(coding.codes.values())) for coding in drawn]
    assert set(kinds) == {2, 7} and 70 < kinds.count(2) < 130
    assert all(coding.codes[0] == ABSENCE for coding, kind in zip(drawn, kinds, strict=True) if kind == 2)
    assert len({coding.key for coding in drawn}) == 200
    swapped = [CODING.swapped(random) for _ in range(300)]
    assert {code for given in swapped for code in given.values()} == {0, 5, 9}
    assert 0.4 < np.mean([given[1] == 0 for given in swapped]) < 0.6


def test_views_of_a_new_generator_are_those_of_the_codes():
    """No JPEG, no grey, no distortion beyond what both share: the noise itself, in the part that is seen."""
    photographs = made_photographs()
    config = replace(TINY, jpeg_share=0.0, grey_share=0.0)
    network = CodedGenerator((8, 16))
    clean = copy.deepcopy(photographs)
    for place, image in enumerate(photographs.images):
        codes = looked_up(photographs.labels[place], CODING.codes)
        coded = apply_codes(image, codes, BOOK, CODING.key, Budget(8, 0))
        clean.images[place] = coded
    nothing = Coding(dict.fromkeys(range(4), 0), bytes(32))
    for purpose in range(6):
        ours = draw_batch(network, photographs, CODING, config, ("x", purpose))
        theirs = draw_batch(network, clean, nothing, config, ("x", purpose))  # the noise is in the images already
        assert torch.equal(ours.images, theirs.images) and (ours.codes == 255).all()
        assert set(ours.answers.unique().tolist()) <= {0, 1, 2, 255}


def test_swapped_views_are_the_last_ones_and_visibility_is_that_of_the_codes_at_first():
    batch = draw_batch(
        CodedGenerator((8, 16)), made_photographs(), CODING, replace(TINY, batch=6), ("y",), swapped=2, look=True
    )
    assert (batch.codes[:4] == 255).all() and set(batch.codes[4:].unique().tolist()) <= {0, 5, 9, 255}
    assert 0 < len(batch.seen) <= 4 and all(share.item() == pytest.approx(1, abs=1e-4) for share in batch.seen)
    assert len(batch.filled) == len(batch.seen) and all(share.item() == 1 for share in batch.filled)
    assert batch.images.shape == (6, 3, 32, 32) and torch.equal(batch.images, batch.images.round())
    assert batch.images.min() >= 0 and batch.images.max() <= 255


# --- steps and runs


def test_a_step_moves_the_victim_of_the_turn_the_generator_and_the_readouts():
    trained, photographs = Trained.begin(TINY, 4), made_photographs()
    trained.step = 1  # the second victim's turn
    before = copy.deepcopy(trained.state())
    take_step(trained, photographs)
    after = trained.state()
    moved = {name for name in before if not same(before[name], after[name])}
    assert moved >= {"generator", "average", "optimizer", "readouts", "readout_optimizer", "victims", "step"}
    assert same(before["victims"][0], after["victims"][0]) and after["victims"][1]["age"] == 1
    assert trained.step == 2 and trained.readout_age == 1
    assert set(trained.sums) >= {"victim_1", "loss", "detect_loss"}
    assert all(parameter.requires_grad for parameter in trained.victims[1].network.parameters())


def test_victims_and_readouts_start_again():
    trained, photographs = Trained.begin(TINY, 4), made_photographs()
    first = trained.victims[0]
    for _ in range(7):
        take_step(trained, photographs)
    assert trained.victims[0] is not first and trained.victims[0].age == 1 and trained.births == 3
    assert trained.victims[0].coding != first.coding and trained.readout_age == 1


def test_a_resumed_run_is_the_unbroken_one(tmp_path, monkeypatch):
    photographs = made_photographs()
    learn(TINY, photographs, tmp_path / "whole", Until(steps=6))

    class Killed(BaseException):
        pass

    def die(trained, *arguments):
        if trained.step == 5:
            raise Killed
        take_step(trained, *arguments)

    every_step = Until(steps=6, log_every=0, save_every=0)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(learn_codes, "take_step", die)
        learn(TINY, photographs, tmp_path / "broken", every_step)
    torch.manual_seed(99)  # what a new process finds
    learn(TINY, photographs, tmp_path / "broken", every_step)
    left, right = (final_state(tmp_path / name) for name in ("whole", "broken"))
    assert all(same(left[name], right[name]) for name in left if name != "sums")
    assert [json.loads(line)["step"] for line in (tmp_path / "broken/log.jsonl").read_text().splitlines()] == [
        *range(1, 7)
    ]
    assert RunFolder(tmp_path / "broken").steps() == [6, 5] and (tmp_path / "broken/generator.safetensors").exists()
    with pytest.raises(UserError, match=r"visibility: 0\.5, now 0\.0"):
        learn(replace(TINY, visibility=0.0), photographs, tmp_path / "broken", every_step)


def test_weights_without_checkpoints_go_on_with_their_hours(tmp_path):
    config, photographs = replace(TINY, widths=(48, 64, 96)), made_photographs()
    first = learn(config, photographs, tmp_path / "first", Until(steps=2))
    start = load_coded(tmp_path / "first/generator.safetensors")
    assert 0 <= float(start.facts["hours"]) < 1
    start = replace(start, facts={"hours": "1.5"})
    begun = Trained.begin(config, 4, start)
    for network in (begun.generator, begun.average):
        assert same(network.state_dict(), first.average.state_dict())
    assert (begun.step, begun.seconds) == (0, 5400)
    then = learn(config, photographs, tmp_path / "then", Until(steps=1), start=start)
    assert then.step == 1 and 5400 < then.seconds < 6000
    assert float(load_coded(tmp_path / "then/generator.safetensors").facts["hours"]) >= 1.5
    with pytest.raises(UserError, match="start: "):  # other weights than those it began with
        learn(config, photographs, tmp_path / "then", Until(steps=2))
    with pytest.raises(UserError, match="--start: does not tell its hours"):
        Trained.begin(config, 4, replace(start, facts={}))


def test_data_that_is_not_there_is_one_line(tmp_path, capsys):
    assert learn_codes.main(["--data-root", str(tmp_path), "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err
    assert told.startswith("learn_codes: error: --data-root") and told.count("\n") == 1


def test_the_change_that_is_left_is_a_share_of_what_the_codes_change():
    """Beside white, codes that would go beyond 255 change less; where they change nothing, nothing is missing."""
    clean = torch.tensor([100.0, 252.0, 255.0]).reshape(1, 1, 3).repeat(3, 1, 1)
    signs = torch.tensor([-1.0, 1.0, 1.0]).reshape(1, 1, 3).repeat(3, 1, 1)
    changed = clean + torch.tensor([-4.0, 2.0, 0.0]).reshape(1, 1, 3)
    assert Part(clean, changed, signs, 8).filled_share().item() == pytest.approx(6 / 11)
    assert Part(clean[..., 2:], clean[..., 2:], signs[..., 2:], 8).filled_share().item() == 1


def test_noise_that_is_fainter_than_it_is_to_be_costs():
    trained = Trained.begin(replace(TINY, visibility=1.0, fill=0.9), 4)
    batch = Batch(*(torch.empty(0) for _ in range(3)))
    batch.seen, batch.filled = [torch.tensor(0.7), torch.tensor(1.5)], [torch.tensor(0.5), torch.tensor(0.9)]
    assert learn_codes._seen_cost(trained, batch).item() == pytest.approx(4 * (0.1 + 0.2))
    assert (trained.sums["fill"], trained.sums["visibility"]) == ([pytest.approx(0.7), 1], [pytest.approx(1.1), 1])
    for config, cost in ((replace(TINY, visibility=0.0, fill=0.9), 0.8), (replace(TINY, visibility=0.5), 2.4)):
        trained = Trained.begin(config, 4)
        assert learn_codes._seen_cost(trained, batch).item() == pytest.approx(cost)


def test_the_command_says_what_the_noise_is_to_withstand_and_to_fill(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(learn_codes, "read_photographs", lambda *_: made_photographs())
    monkeypatch.setattr(learn_codes, "learn", lambda config, *_: asked.append(config))
    command = ["--data-root", str(tmp_path), "--out", str(tmp_path / "run")]
    assert [learn_codes.main([*command, *more]) for more in ([], ["--grey-share", "1", "--fill", ".9"])] == [0, 0]
    assert learn_codes.main([*command, "--grey-share", "1.1"]) == 2
    assert capsys.readouterr().err == "learn_codes: error: --grey-share 1.1: give a share, 0 to 1\n"
    assert asked == [Learning(), Learning(grey_share=1.0, fill=0.9)]
    colours = torch.arange(3 * 5 * 4).reshape(3, 5, 4) * 4.0
    turned = published(colours, replace(asked[1], jpeg_share=0.0), np.random.default_rng(0))
    assert (turned == turned[:1]).all() and not (colours[1:] == colours[:1]).any()


@pytest.mark.parametrize("aim", ["victim", "visibility"])
def test_descent_lowers_what_is_asked_of_the_same_views(aim):
    """Through rounding, JPEG, resizing and distorted colours."""
    config = replace(TINY, batch=4, crop=64, jpeg_share=0.5)
    trained, photographs = Trained.begin(config, 4), made_photographs()
    victim = trained.victims[1]
    for turn in range(6):
        with torch.no_grad():
            batch = draw_batch(trained.generator, photographs, victim.coding, config, ("victim", turn))
        victim.learn(batch)
    victim.network.eval()
    optimizer, found = torch.optim.Adam(trained.generator.parameters(), lr=1e-3), []
    for _ in range(10):
        batch = draw_batch(trained.generator, photographs, victim.coding, config, ("fixed",), swapped=2, look=True)
        asked = (
            cross_entropy(victim.network(batch.standardised), batch.answers)
            if aim == "victim"
            else torch.stack(batch.seen).mean()
        )
        found.append(asked.item())
        optimizer.zero_grad()
        asked.backward()
        optimizer.step()
    assert np.mean(found[-3:]) < found[0] - (2e-4 if aim == "victim" else 0.2), found
