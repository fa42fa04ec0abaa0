"""Bilevel steps: who moves, what they learn, and that a resumed run is the unbroken one."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from segment_anything_training import build
from segment_anything_training.compact import CompactGenerator, CompactSurrogate
from segment_anything_training.sam import SamConfig
from tests.support.training_runs import same
from unseg.data.training_data import TrainingImage
from unseg.data.views import ViewBatch, draw_views
from unseg.errors import UserError
from unseg.method.config import Budget
from unseg.method.losses import LossRule
from unseg.method.prompts import POINTS
from unseg.training import loop, steps
from unseg.training.loop import RunOptions, enough_memory, take_step, train
from unseg.training.players import NonFiniteStep, Training
from unseg.training.recipes import recipe
from unseg.training.steps import generator_step, noised, prepare, surrogate_step

CONFIG = recipe("smoke")


@pytest.fixture(scope="module")
def samples():
    random = np.random.default_rng(0)
    made = []
    for index in range(4):
        pixels = random.integers(0, 256, (80, 96, 3), dtype=np.uint8)
        mask = np.zeros((80, 96), np.int32)
        mask[10:60, 10 + 5 * index : 60] = 255
        made.append(TrainingImage(f"made{index}", pixels, (mask,)))
    return made


def batch_of(samples, config=CONFIG, step=0):
    return prepare(draw_views(samples, config, step), config, (1.0, 1.0))


def state_of(player):
    return copy.deepcopy([player.network.state_dict(), player.optimizer.state_dict()])


def test_each_step_moves_its_player_and_keeps_every_bit_of_the_other(samples):
    training = Training.start(CONFIG)
    generator, surrogate, batch = training.generator, training.surrogates[0], batch_of(samples)
    before = state_of(generator), state_of(surrogate)
    surrogate_step(generator.network, surrogate, batch, CONFIG, 1e-3)
    assert same(state_of(generator), before[0]) and not same(state_of(surrogate)[0], before[1][0])
    before = state_of(generator), state_of(surrogate)
    generator_step(generator, surrogate.network, batch, CONFIG, 1e-3)
    assert same(state_of(surrogate), before[1]) and not same(state_of(generator)[0], before[0][0])
    assert all(parameter.requires_grad for parameter in surrogate.network.parameters())


def test_the_generators_gradient_flows_through_the_frozen_surrogate(samples):
    training = Training.start(CONFIG)
    generator_step(training.generator, training.surrogates[0].network, batch_of(samples), CONFIG, 1e-3)
    moved = [bool(moments["exp_avg"].abs().sum() > 0) for moments in training.generator.optimizer.state.values()]
    assert sum(moved) >= len(moved) - 1  # every weight but the belief in prompts of a kind that was not drawn


def test_steps_lower_their_losses(samples):
    config = dataclasses.replace(CONFIG, generator_prompts=("mask",))
    training, batch = Training.start(config), batch_of(samples, config)
    surrogate = training.surrogates[0]
    first, *_, last = [surrogate_step(training.generator.network, surrogate, batch, config, 1e-3) for _ in range(12)]
    assert last < 0.8 * first
    first, *_, last = [generator_step(training.generator, surrogate.network, batch, config, 1e-3) for _ in range(12)]
    assert last < first


def test_the_fused_optimizer_is_adam(samples):
    """Weights and gradients may lie in memory in different orders, which a fused kernel has to heed."""
    training, expected = Training.start(CONFIG), []

    def step_plainly(optimizer, *_):
        assert optimizer.defaults["fused"]
        expected.clear()
        for parameter in optimizer.param_groups[0]["params"]:
            copied = torch.nn.Parameter(parameter.detach().clone(memory_format=torch.contiguous_format))
            copied.grad = parameter.grad.clone(memory_format=torch.contiguous_format)
            plain = torch.optim.Adam([copied], lr=optimizer.param_groups[0]["lr"], fused=False, foreach=False)
            plain.state[copied] = {
                key: value.clone(memory_format=torch.contiguous_format)
                for key, value in optimizer.state.get(parameter, {}).items()
            }
            plain.step()
            expected.append((parameter, copied))

    for player in (training.generator, *training.surrogates):
        player.optimizer.register_step_pre_hook(step_plainly)
    for step in range(6):
        take_step(training, draw_views(samples, CONFIG, step), step)
        assert (
            all(torch.allclose(parameter, copied, rtol=0, atol=1e-6) for parameter, copied in expected)
            and len(expected) > 10
        )


def test_label_modification_asks_for_ones(samples, monkeypatch):
    seen = []
    monkeypatch.setattr(steps, "mask_loss", lambda logits, target, *rest: seen.append(target) or logits.square().mean())
    training, batch = Training.start(CONFIG), batch_of(samples)
    for target in ("ones", "mask"):
        config = dataclasses.replace(CONFIG, target=target)
        generator_step(training.generator, training.surrogates[0].network, batch, config, 1e-3)
    assert seen[0].min() == 1 and torch.equal(seen[1], batch.small_labels)


def test_the_surrogate_learns_the_label_as_it_was_resized(samples, monkeypatch):
    """Not rounded, unlike the region that noise is added to."""
    seen = []
    monkeypatch.setattr(steps, "mask_loss", lambda logits, target, *rest: seen.append(target) or logits.square().mean())
    config = dataclasses.replace(CONFIG, view_size=96, frame_size=96, surrogate_sizes=(64,), antialias=False)
    training, batch = Training.start(config), batch_of(samples, config)
    resized = torch.nn.functional.interpolate(batch.labels, (64, 64), mode="bilinear", align_corners=False)
    surrogate_step(training.generator.network, training.surrogates[0], batch, config, 1e-3)
    assert torch.equal(seen[0], resized) and ((resized > 0.1) & (resized < 0.9)).sum() > 20


def test_the_players_kinds_of_prompts_are_drawn_apart(samples):
    config = dataclasses.replace(recipe("paper"), view_size=64, frame_size=96, surrogate_sizes=(32,), batch_size=2)
    apart = dataclasses.replace(config, generator_prompts=("box",), surrogate_prompts=("points",))
    batch = prepare(draw_views(samples, apart, 0), apart, (0.25, 0.25))
    assert batch.generator_prompts.boxes is not None and batch.generator_prompts.points is None
    assert batch.surrogate_prompts.points is not None and batch.surrogate_prompts.boxes is None
    own_kind = 0  # how often the surrogate has a prompt of a kind that the generator has not
    for step in range(20):
        batch = prepare(draw_views(samples, config, step), config, (0.25, 0.25))
        for slot in (0, 1):
            theirs, own = (of.of_image(slot) for of in (batch.generator_prompts, batch.surrogate_prompts))
            own_kind += any(
                getattr(own, name) is not None and getattr(theirs, name) is None
                for name in ("masks", "boxes", "points")
            )
    assert own_kind > 5  # a third of 40 on average: the generator's subset has two kinds on average


def test_the_recipes_numbers_reach_losses_and_prompts(samples, monkeypatch):
    config = dataclasses.replace(
        CONFIG,
        loss_points=64,
        loss_oversample=2,
        loss_uncertain_share=0.5,
        loss_weights=(2.0, 3.0),
        dice_smoothing=4.0,
        generator_prompts=("points",),
        surrogate_prompts=("points",),
        prompt_points=3,
    )
    rules = []
    monkeypatch.setattr(
        steps, "mask_loss", lambda logits, target, rule, random: rules.append(rule) or logits.square().mean()
    )
    training = Training.start(config)
    batch = batch_of(samples, config)
    generator_step(training.generator, training.surrogates[0].network, batch, config, 1e-3)
    surrogate_step(training.generator.network, training.surrogates[0], batch, config, 1e-3)
    assert rules == [LossRule(64, 2, 0.5, (2.0, 3.0), 4.0)] * 2
    assert batch.generator_prompts.points.shape == batch.surrogate_prompts.points.shape == (2, 3, 2)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to …"),
    ],
)
def test_memory_that_runs_out_is_one_line(samples, monkeypatch, tmp_path, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(loop, "take_step", fail)
    with pytest.raises(UserError, match="cpu has too little memory.* --set batch_size=2, and another --output"):
        train(CONFIG, samples, tmp_path, options=RunOptions(tensorboard=False))


def test_other_errors_of_torch_are_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="shapes"), enough_memory(CONFIG, torch.device("cpu")):
        raise RuntimeError("shapes do not fit")


def test_the_surrogate_sees_the_training_budget(samples):
    config = dataclasses.replace(CONFIG, budget=Budget(1.0, 0.25), antialias=False)
    batch = batch_of(samples, config)
    batch = dataclasses.replace(batch, small_images=torch.full_like(batch.small_images, 0.5))
    change = (noised(batch, torch.ones(2, 3, 16, 16), config) - 0.5) * 255
    on_object = batch.small_labels.round().expand_as(change) > 0
    torch.testing.assert_close(change[on_object], torch.ones(int(on_object.sum())), atol=1e-4, rtol=0)
    torch.testing.assert_close(change[~on_object], torch.full((int((~on_object).sum()),), 0.25), atol=1e-4, rtol=0)


def test_phases_take_turns_as_the_recipe_says(samples, monkeypatch):
    turns = []
    monkeypatch.setattr(loop, "surrogate_step", lambda *rest: turns.append("surrogate") or 1.0)
    monkeypatch.setattr(loop, "generator_step", lambda *rest: turns.append("generator") or 1.0)
    config = dataclasses.replace(
        CONFIG, phases=("surrogate", "generator", "generator", "generator"), steps_per_phase=0, surrogate_lifetime=0
    )
    training = Training.start(config)
    for step in range(10):
        take_step(training, draw_views(samples, config, step), step // 2)
    assert turns == ["surrogate"] * 2 + ["generator"] * 6 + ["surrogate"] * 2


def test_learning_rates_drop_once(samples, monkeypatch):
    rates = []
    monkeypatch.setattr(loop, "surrogate_step", lambda *rest: rates.append(rest[4]) or 1.0)
    monkeypatch.setattr(loop, "generator_step", lambda *rest: rates.append(rest[4]) or 1.0)
    config = dataclasses.replace(CONFIG, decay_phase=4, generator_learning_rate=1.0, surrogate_learning_rate=2.0)
    training = Training.start(config)
    for step in range(8):
        take_step(training, draw_views(samples, config, step), step)
    assert rates == pytest.approx([2, 1, 2, 1, 0.2, 0.1, 0.2, 0.1])


def test_surrogates_start_afresh_at_staggered_times(samples):
    training = Training.start(dataclasses.replace(CONFIG, surrogate_lifetime=4))
    assert [surrogate.steps for surrogate in training.surrogates] == [0, 2]
    second = training.surrogates[1].network
    training.surrogates[1].steps = 4
    training.renew()
    renewed = training.surrogates[1]
    assert renewed.network is not second and renewed.steps == 0 and renewed.name == CONFIG.surrogates[1]
    assert not torch.equal(renewed.network.head.weight, second.head.weight)


def test_a_loss_that_is_not_a_number_changes_nothing(samples, monkeypatch):
    training, views = Training.start(CONFIG), draw_views(samples, CONFIG, 0)
    take_step(training, views, 0)
    before = copy.deepcopy(training.own_state())
    for bad in (
        lambda logits: logits.sum() * float("nan"),
        lambda logits: (logits.abs().sum() * 0).sqrt(),
    ):  # 0, but its gradient is not finite
        monkeypatch.setattr(steps, "mask_loss", lambda logits, *rest, bad=bad: bad(logits))
        for phase in (0, 1):
            with pytest.raises(NonFiniteStep):
                take_step(training, views, phase)
    assert same(training.own_state(), before)


def test_prompts_of_an_image_depend_on_its_slot_alone(samples):
    """Two processes draw for their images what one with the doubled batch draws."""
    config = dataclasses.replace(recipe("paper"), view_size=64, frame_size=96, surrogate_sizes=(32,), batch_size=4)
    views = draw_views(samples, config, 3)
    whole = prepare(views, config, (0.25, 0.25))
    parts = [
        prepare(ViewBatch(3, views.names[half], views.pixels[half]), config, (0.25, 0.25), rank)
        for rank, half in enumerate((slice(0, 2), slice(2, 4)))
    ]
    for name in ("images", "small_labels"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts]))
    for player in ("generator_prompts", "surrogate_prompts"):
        of_parts = [getattr(part, player).of_image(index) for part in parts for index in range(2)]
        for index, expected in enumerate(of_parts):
            found = getattr(whole, player).of_image(index)
            for name in ("masks", "boxes", "points"):
                ours, theirs = getattr(found, name), getattr(expected, name)
                assert theirs is None if ours is None else torch.equal(ours, theirs)
    assert [one.initial_seed() for one in whole.points] == [one.initial_seed() for part in parts for one in part.points]
    assert len({one.initial_seed() for one in whole.points}) == 4


def test_kinds_of_prompts_differ_between_images_and_steps(samples):
    config = dataclasses.replace(recipe("paper"), view_size=64, frame_size=96, surrogate_sizes=(32,), batch_size=2)
    seen = [set(), set()]
    for step in range(24):
        batch = prepare(draw_views(samples, config, step), config, (0.25, 0.25))
        for slot in (0, 1):
            kinds = [
                tuple(getattr(prompts.of_image(slot), name) is not None for name in ("masks", "boxes", "points"))
                for prompts in (batch.generator_prompts, batch.surrogate_prompts)
            ]
            assert sum(kinds[0]) >= 1 and sum(kinds[1]) == 1
            seen[slot].add((step, *kinds))
    assert seen[0] != seen[1]
    assert {sum(generator) for _, generator, _ in seen[0]} == {1, 2, 3} and len({own for *_, own in seen[0]}) == 3


@pytest.mark.parametrize(
    "label, config",
    [
        ("dot", {}),
        ("line", {}),
        ("dot", {"jitter": (0.1, 0.1)}),
        ("corner", {"jitter": (2.0, 2.0)}),
    ],
)
def test_objects_that_hardly_show_still_train(label, config):
    """A dot of 2 pixels vanishes at half size; a line is thinner than that; a corner lies outside most crops."""
    mask = np.zeros((96, 96), np.uint8)
    mask[
        {
            "dot": (slice(40, 41), slice(40, 42)),
            "line": (slice(30, 31), slice(5, 90)),
            "corner": (slice(0, 1), slice(0, 3)),
        }[label]
    ] = 255
    image = TrainingImage("thin", np.full((96, 96, 3), 128, np.uint8), (mask,))
    config = dataclasses.replace(
        recipe("paper"), view_size=128, frame_size=128, surrogate_sizes=(32,), batch_size=2, **config
    )
    for step in range(6):
        batch = prepare(draw_views([image], config, step), config, (0.25, 0.25))
        assert batch.labels.amax((1, 2, 3)).min() > 0
        for prompts, side in ((batch.generator_prompts, 128), (batch.surrogate_prompts, 32)):
            if prompts.points is not None:
                assert (
                    prompts.points.shape == (2, POINTS, 2) and prompts.points.min() >= 0 and prompts.points.max() < side
                )
            if prompts.boxes is not None:
                assert (prompts.boxes[:, 2:] >= prompts.boxes[:, :2]).all() and prompts.boxes.max() < side


@pytest.mark.parametrize(
    "change, part",
    [
        ({"generator": "vit_x"}, "generator=vit_x"),
        ({"surrogates": ("compact", "vit_y")}, "available: vit_b, vit_l, vit_h, compact, compact_fine"),
        ({"view_size": 100}, "multiple of 16"),
        ({"surrogate_sizes": (64, 90)}, "surrogate_sizes=90"),
    ],
)
def test_networks_that_do_not_fit_are_named(change, part):
    with pytest.raises(UserError) as error:
        Training.start(dataclasses.replace(CONFIG, **change))
    assert part in str(error.value) and "\n" not in str(error.value)


def test_the_papers_recipe_trains_networks_derived_from_sam(samples, monkeypatch):
    """Everything as published but the size of the networks and of the views."""
    monkeypatch.setitem(
        build.SAM_CONFIGS, "vit_b", SamConfig(256, embed_dim=96, depth=4, num_heads=4, global_blocks=(1, 3), window=7)
    )
    monkeypatch.setattr(build, "SURROGATE_IMAGE_SIZE", 128)
    config = dataclasses.replace(
        recipe("paper"),
        batch_size=2,
        view_size=256,
        frame_size=256,
        surrogate_sizes=(128,),
        loss_points=256,
        generator_learning_rate=1e-3,
        generator_start="random",
    )
    training = Training.start(config)
    start = copy.deepcopy(training.generator.network.state_dict())
    for step in range(4):  # two steps an epoch: one epoch of the surrogate, one of the generator
        take_step(training, draw_views(samples, config, step), step // 2)
    assert training.surrogates[0].steps == 2 and training.generator.steps == 2
    moved = {
        name for name, value in training.generator.network.state_dict().items() if not torch.equal(value, start[name])
    }
    assert moved and all("noise" in name for name in moved)
    with pytest.raises(UserError, match="view_size=128: this network takes 256"):
        Training.start(dataclasses.replace(config, view_size=128))


def test_the_compact_networks_take_any_square_of_the_stride():
    from segment_anything_training.prompt_batch import Prompts

    for side in (64, 112):
        noise = CompactGenerator()(torch.rand(2, 3, side, side), Prompts())
        assert noise.shape == (2, 3, side, side) and noise.abs().max() <= 1
        assert CompactSurrogate(wide_stem=False)(torch.rand(2, 3, side, side), Prompts()).shape == (2, 1, side, side)
        assert CompactSurrogate()(torch.rand(2, 3, side, side), Prompts()).shape == (2, 1, side // 2, side // 2)
    with pytest.raises(ValueError, match="multiple of 16"):
        CompactGenerator()(torch.rand(1, 3, 60, 60), Prompts())


def test_the_untrained_generator_tints_the_object_green_and_the_rest_magenta():
    from segment_anything_training.prompt_batch import Prompts

    torch.manual_seed(0)
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., 64:] = 255.0
    with torch.no_grad():
        noise = CompactGenerator()(torch.full((1, 3, 128, 128), 0.5), Prompts(masks=mask))[0]
    inside, outside = noise[..., 64:], noise[..., :64]  # to the very edge
    assert inside[1].min() > 0.6 and inside[[0, 2]].max() < -0.6
    assert outside[1].max() < -0.6 and outside[[0, 2]].min() > 0.6
