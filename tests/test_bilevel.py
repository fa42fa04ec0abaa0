"""Bilevel steps: who moves, what they learn, and that a resumed run is the unbroken one."""
import copy
import dataclasses
import json

import numpy as np
import pytest
import torch

from segment_anything_training import build
from segment_anything_training.compact import CompactGenerator, CompactSurrogate
from segment_anything_training.sam import SamConfig
from unseg import bilevel
from unseg.bilevel import Player, Training, generator_step, prepare, surrogate_step, train
from unseg.config import Budget
from unseg.data.views import TrainingImage, draw_batch
from unseg.errors import UserError
from unseg.recipes import recipe

CONFIG = recipe("smoke")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def samples():
    random = np.random.default_rng(0)
    made = []
    for index in range(4):
        pixels = random.integers(0, 256, (80, 96, 3), dtype=np.uint8)
        mask = np.zeros((80, 96), np.int32)
        mask[10:60, 10 + 5 * index:60] = 255
        made.append(TrainingImage(f"made{index}", pixels, (mask,)))
    return made


def batch_of(samples, config=CONFIG, step=0):
    return prepare(*draw_batch(samples, config, step), config, step, (1.0, 1.0), CPU)


def state_of(player):
    return copy.deepcopy([player.network.state_dict(), player.optimizer.state_dict()])


def same(left, right):
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right))
    return left == right


def test_each_step_moves_its_player_and_keeps_every_bit_of_the_other(samples):
    training = Training.start(CONFIG, CPU)
    generator, surrogate, batch = training.generator, training.surrogates[0], batch_of(samples)
    before = state_of(generator), state_of(surrogate)
    surrogate_step(generator.network, surrogate, batch, CONFIG, 1e-3, torch.Generator())
    assert same(state_of(generator), before[0]) and not same(state_of(surrogate)[0], before[1][0])
    before = state_of(generator), state_of(surrogate)
    generator_step(generator, surrogate.network, batch, CONFIG, 1e-3, torch.Generator())
    assert same(state_of(surrogate), before[1]) and not same(state_of(generator)[0], before[0][0])
    assert all(parameter.requires_grad for parameter in surrogate.network.parameters())


def test_the_generators_gradient_flows_through_the_frozen_surrogate(samples):
    training = Training.start(CONFIG, CPU)
    generator_step(training.generator, training.surrogates[0].network, batch_of(samples), CONFIG, 1e-3, torch.Generator())
    moved = [bool(moments["exp_avg"].abs().sum() > 0) for moments in training.generator.optimizer.state.values()]
    assert sum(moved) >= len(moved) - 1  # every weight but the belief in prompts of a kind that was not drawn


def test_steps_lower_their_losses(samples):
    config = dataclasses.replace(CONFIG, generator_prompts=("mask",))
    training, batch = Training.start(config, CPU), batch_of(samples, config)
    surrogate = training.surrogates[0]
    first, *_, last = [surrogate_step(training.generator.network, surrogate, batch, config, 1e-3, torch.Generator())
                       for _ in range(12)]
    assert last < 0.8 * first
    first, *_, last = [generator_step(training.generator, surrogate.network, batch, config, 1e-3, torch.Generator())
                       for _ in range(12)]
    assert last < first


def test_label_modification_asks_for_ones(samples, monkeypatch):
    seen = []
    monkeypatch.setattr(bilevel, "mask_loss", lambda logits, target, *rest: seen.append(target) or logits.square().mean())
    training, batch = Training.start(CONFIG, CPU), batch_of(samples)
    for target in ("ones", "mask"):
        config = dataclasses.replace(CONFIG, target=target)
        generator_step(training.generator, training.surrogates[0].network, batch, config, 1e-3, torch.Generator())
    assert seen[0].min() == 1 and torch.equal(seen[1], batch.small_labels)


def test_the_surrogate_sees_the_training_budget(samples):
    config = dataclasses.replace(CONFIG, budget=Budget(1.0, 0.25), antialias=False)
    batch = batch_of(samples, config)
    batch = dataclasses.replace(batch, small_images=torch.full_like(batch.small_images, 0.5))
    change = (bilevel.noised(batch, torch.ones(2, 3, 16, 16), config) - 0.5) * 255
    on_object = batch.small_labels.round().expand_as(change) > 0
    torch.testing.assert_close(change[on_object], torch.ones(int(on_object.sum())), atol=1e-4, rtol=0)
    torch.testing.assert_close(change[~on_object], torch.full((int((~on_object).sum()),), 0.25), atol=1e-4, rtol=0)


def test_phases_take_turns_as_the_recipe_says(samples, monkeypatch):
    turns = []
    monkeypatch.setattr(bilevel, "surrogate_step", lambda *rest: turns.append("surrogate") or 1.0)
    monkeypatch.setattr(bilevel, "generator_step", lambda *rest: turns.append("generator") or 1.0)
    config = dataclasses.replace(CONFIG, phases=("surrogate", "generator", "generator", "generator"), steps_per_phase=0,
                                 surrogate_lifetime=0)
    training = Training.start(config, CPU)
    for _ in range(10):
        training.take_step(samples, steps_per_epoch=2)
    assert turns == ["surrogate"] * 2 + ["generator"] * 6 + ["surrogate"] * 2


def test_learning_rates_drop_once(samples, monkeypatch):
    rates = []
    monkeypatch.setattr(bilevel, "surrogate_step", lambda *rest: rates.append(rest[4]) or 1.0)
    monkeypatch.setattr(bilevel, "generator_step", lambda *rest: rates.append(rest[4]) or 1.0)
    config = dataclasses.replace(CONFIG, decay_phase=4, generator_learning_rate=1.0, surrogate_learning_rate=2.0)
    training = Training.start(config, CPU)
    for _ in range(8):
        training.take_step(samples, 2)
    assert rates == pytest.approx([2, 1, 2, 1, 0.2, 0.1, 0.2, 0.1])


def test_surrogates_start_afresh_at_staggered_times(samples):
    training = Training.start(dataclasses.replace(CONFIG, surrogate_lifetime=4), CPU)
    assert [surrogate.steps for surrogate in training.surrogates] == [0, 2]
    second = training.surrogates[1].network
    training.surrogates[1].steps = 4
    training.renew()
    renewed = training.surrogates[1]
    assert renewed.network is not second and renewed.steps == 0 and renewed.name == CONFIG.surrogates[1]
    assert not torch.equal(renewed.network.head.weight, second.head.weight)


def test_a_resumed_run_is_the_unbroken_one(samples, tmp_path):
    train(CONFIG, samples, tmp_path / "whole", quiet=True)

    class Killed(Exception):
        pass

    class Dying:
        """Samples that fail in the middle of the seventh step, three steps after a checkpoint."""
        asked = 0

        def __len__(self):
            return len(samples)

        def __getitem__(self, index):
            self.asked += 1
            if self.asked > 7 * CONFIG.batch_size + 2 * 3 * CONFIG.batch_size:  # steps and the log's own batches
                raise Killed
            return samples[index]

    with pytest.raises(Killed):
        train(CONFIG, Dying(), tmp_path / "broken", quiet=True)
    train(CONFIG, samples, tmp_path / "broken", resume=True, quiet=True)
    left, right = (torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "broken"))
    for key in ("generator", "surrogates", "step", "births"):
        assert same(left[key], right[key]), key
    assert left["step"] == CONFIG.total_phases


def test_the_log_shows_both_losses_and_the_gap(samples, tmp_path):
    train(CONFIG, samples, tmp_path, quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(2, 13, 2))
    assert all(np.isfinite(line[key]) for line in lines
               for key in ("surrogate_loss", "generator_loss", "surrogate_noised", "surrogate_clean"))
    assert lines[0]["surrogate_noised"] != lines[0]["surrogate_clean"]


def test_nothing_is_overwritten_and_settings_must_agree(samples, tmp_path):
    train(CONFIG, samples, tmp_path, quiet=True)
    with pytest.raises(UserError, match="--resume"):
        train(CONFIG, samples, tmp_path, quiet=True)
    with pytest.raises(UserError, match="batch_size 2 → 3"):
        train(dataclasses.replace(CONFIG, batch_size=3), samples, tmp_path, resume=True, quiet=True)
    with pytest.raises(UserError, match="start without --resume"):
        train(CONFIG, samples, tmp_path / "new", resume=True, quiet=True)


def test_a_loss_that_is_not_a_number_stops_the_run(samples, monkeypatch):
    monkeypatch.setattr(bilevel, "surrogate_step", lambda *rest: float("nan"))
    with pytest.raises(UserError, match="step 0: the surrogate's loss is nan"):
        Training.start(CONFIG, CPU).take_step(samples, 2)


@pytest.mark.parametrize("change, part", [
    ({"generator": "vit_x"}, "generator=vit_x"), ({"surrogates": ("compact", "vit_y")}, "surrogates=vit_y"),
    ({"view_size": 100}, "multiple of 16"), ({"surrogate_sizes": (64, 90)}, "surrogate_sizes=90"),
])
def test_networks_that_do_not_fit_are_named(change, part):
    with pytest.raises(UserError) as error:
        Training.start(dataclasses.replace(CONFIG, **change), CPU)
    assert part in str(error.value) and "\n" not in str(error.value)


def test_the_papers_recipe_trains_networks_derived_from_sam(samples, monkeypatch):
    """Everything as published but the size of the networks and of the views."""
    monkeypatch.setitem(build.SAM_CONFIGS, "vit_b", SamConfig(256, embed_dim=96, depth=4, num_heads=4, global_blocks=(1, 3),
                                                             window=7))
    monkeypatch.setattr(build, "SURROGATE_IMAGE_SIZE", 128)
    config = dataclasses.replace(recipe("paper"), batch_size=2, view_size=256, frame_size=256, surrogate_sizes=(128,),
                                 loss_points=256, generator_learning_rate=1e-3)
    training = Training.start(config, CPU)
    start = copy.deepcopy(training.generator.network.state_dict())
    for _ in range(4):  # two steps an epoch: one epoch of the surrogate, one of the generator
        training.take_step(samples, steps_per_epoch=2)
    assert training.surrogates[0].steps == 2 and training.generator.steps == 2
    moved = {name for name, value in training.generator.network.state_dict().items() if not torch.equal(value, start[name])}
    assert moved and all("noise" in name for name in moved)
    with pytest.raises(UserError, match="view_size=128: this network takes 256"):
        Training.start(dataclasses.replace(config, view_size=128), CPU)


def test_the_compact_networks_take_any_square_of_the_stride():
    from segment_anything_training.prompts import Prompts
    for side in (64, 112):
        noise = CompactGenerator()(torch.rand(2, 3, side, side), Prompts())
        assert noise.shape == (2, 3, side, side) and noise.abs().max() <= 1
        assert CompactSurrogate(wide_stem=False)(torch.rand(2, 3, side, side), Prompts()).shape == (2, 1, side, side)
        assert CompactSurrogate()(torch.rand(2, 3, side, side), Prompts()).shape == (2, 1, side // 2, side // 2)
    with pytest.raises(ValueError, match="multiple of 16"):
        CompactGenerator()(torch.rand(1, 3, 60, 60), Prompts())


def test_the_untrained_generator_tints_the_object_green_and_the_rest_magenta():
    from segment_anything_training.prompts import Prompts
    torch.manual_seed(0)
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., 64:] = 255.0
    with torch.no_grad():
        noise = CompactGenerator()(torch.full((1, 3, 128, 128), 0.5), Prompts(masks=mask))[0]
    inside, outside = noise[..., 64:], noise[..., :64]  # to the very edge
    assert inside[1].min() > 0.6 and inside[[0, 2]].max() < -0.6
    assert outside[1].max() < -0.6 and outside[[0, 2]].min() > 0.6
