"""Recipes carry the published numbers, and overrides are checked."""

import dataclasses

import pytest
import torch

from segment_anything_training.build import build_generator, build_surrogate
from unseg.compute.distributed import World
from unseg.errors import UserError
from unseg.method import losses, prompts
from unseg.method.config import Budget, TrainConfig
from unseg.training.phases import learning_rates, player_of
from unseg.training.players import Player
from unseg.training.recipes import RECIPES, recipe

PAPER = recipe("paper")


@pytest.mark.parametrize(
    "field, published",
    [
        ("generator", "vit_b"),
        ("surrogates", ("vit_b",)),
        ("generator_start", "sam"),
        ("surrogate_start", "scratch"),
        ("total_phases", 27),
        ("steps_per_phase", 0),
        ("surrogate_lifetime", 0),
        ("generator_learning_rate", 1e-4),
        ("surrogate_learning_rate", 1e-4),
        ("final_learning_rate_factor", 0.1),
        ("decay_phase", 20),
        ("adam_betas", (0.9, 0.999)),
        ("weight_decay", 0.0),
        ("batch_size", 4),
        ("seed", 42),
        ("budget", Budget(1, 0.25)),
        ("target", "ones"),
        ("loss_points", 112 * 112),
        ("generator_prompts", ("box", "points", "noisy_mask")),
        ("surrogate_prompts", ("box", "points", "noisy_mask")),
        ("view_size", 1024),
        ("frame_size", 1024),
        ("surrogate_sizes", (512,)),
        ("jitter", (0.1, 2.0)),
        ("flip", 0.5),
        ("antialias", False),
        ("loss_oversample", 3),
        ("loss_uncertain_share", 0.75),
        ("loss_weights", (1.0, 1.0)),
        ("dice_smoothing", 1.0),
        ("prompt_points", 10),
        ("noisy_mask_coarsening", 8),
        ("noisy_mask_unsure", 0.01),
        ("noisy_mask_deviation", 1.0),
    ],
)
def test_the_papers_numbers(field, published):
    assert getattr(PAPER, field) == published


def test_every_field_of_the_papers_recipe_is_checked_or_is_no_number_of_the_paper():
    checked = {field for field, _ in test_the_papers_numbers.pytestmark[0].args[1]} | {"phases"}
    ours = {"log_every", "checkpoint_every", "precision", "code_prompt"}
    assert {field.name for field in dataclasses.fields(TrainConfig)} == checked | ours


def test_the_papers_epochs():
    turns = [player_of(PAPER, epoch) for epoch in range(PAPER.total_phases)]
    assert turns == ["surrogate" if epoch % 4 == 0 else "generator" for epoch in range(27)]
    rates = [learning_rates(PAPER, epoch) for epoch in range(27)]
    assert rates[:20] == [{"surrogate": 1e-4, "generator": 1e-4}] * 20
    assert all(rate == pytest.approx(1e-5) for epoch in rates[20:] for rate in epoch.values()) and len(rates[20:]) == 7


def test_what_losses_and_prompts_do_unasked_is_the_papers():
    assert losses.loss_rule(PAPER) == losses.LossRule()
    assert prompts.prompt_rule(PAPER) == prompts.PromptRule()
    levels = torch.arange(256) / 255
    assert (levels > prompts.OBJECT_THRESHOLD).tolist() == [level > 128 for level in range(256)]


def test_the_papers_networks_and_optimizers(monkeypatch):
    """On the meta device: nothing is computed."""
    with torch.device("meta"):
        generator, surrogate = build_generator(PAPER.generator), build_surrogate(PAPER.surrogates[0])
    assert (generator.image_size, generator.mask_size, surrogate.image_size, surrogate.mask_size) == (
        1024,
        256,
        512,
        128,
    )
    adam = Player.start("vit_b", generator, 1e-4, PAPER, World(device=torch.device("meta"))).optimizer
    (group,) = adam.param_groups
    assert isinstance(adam, torch.optim.Adam) and not group["amsgrad"]
    assert (group["lr"], group["betas"], group["weight_decay"], group["eps"]) == (1e-4, (0.9, 0.999), 0, 1e-8)
    trained = sum(parameter.numel() for parameter in group["params"])
    assert 7.2e6 < trained < 7.3e6 and 100e6 < sum(parameter.numel() for parameter in generator.parameters()) < 102e6


@pytest.mark.parametrize(
    "field, text, value",
    [
        ("batch_size", "2", 2),
        ("budget", "4,1", Budget(4, 1)),
        ("target", "mask", "mask"),
        ("antialias", "true", True),
        ("adam_betas", "0.5,0.9", (0.5, 0.9)),
        ("surrogate_start", "mae", "mae"),
        ("phases", "surrogate,generator", ("surrogate", "generator")),
        ("surrogate_sizes", "64, 96", (64, 96)),
        ("jitter", "0.5,1.5", (0.5, 1.5)),
        ("surrogate_prompts", "", ()),
        ("code_prompt", "true", True),
    ],
)
def test_overrides(field, text, value):
    assert getattr(recipe("compact", {field: text}), field) == value


@pytest.mark.parametrize(
    "field, text, part",
    [
        ("batch_size", "two", "whole number"),
        ("batch_size", "0", "from 1"),
        ("colour", "1", "unknown"),
        ("compile", "true", "--set compile: was removed in version 0.2"),
        ("target", "zeros", "ones"),
        ("jitter", "1", "separated"),
        ("antialias", "maybe", "true or false"),
        ("phases", "critic", "surrogate"),
        ("generator_prompts", "", "choose"),
        ("generator_start", "mae", "sam, random"),
        ("surrogate_start", "sam", "scratch, mae"),
        ("adam_betas", "0.9,1", "below 1"),
        ("weight_decay", "-1", "from 0"),
        ("surrogate_learning_rate", "inf", "above 0"),
        ("jitter", "1,nan", "rising"),
        ("jitter", "1", "2 numbers"),
        ("jitter", "1,1e9", "up to 128"),
        ("budget", "300,2", "--set budget=300,2: expected two numbers of grey levels from 0 to 255"),
        ("budget", "8", "two numbers"),
        ("seed", "99999999999999999999", "from 0 to"),
        ("view_size", "100000000", "to 16,384"),
        ("surrogate_sizes", "64,99999", "to 16,384"),
        ("loss_weights", "0,0", "not both 0"),
        ("loss_weights", "1", "2 numbers"),
        ("loss_uncertain_share", "1.5", "from 0 to 1"),
        ("loss_oversample", "0", "from 1"),
        ("dice_smoothing", "nan", "from 0"),
        ("prompt_points", "0", "from 1"),
        ("noisy_mask_coarsening", "0", "from 1"),
        ("noisy_mask_unsure", "-1", "from 0"),
        ("noisy_mask_deviation", "inf", "from 0"),
        ("generator_learning_rate", "-1", "above 0"),
    ],
)
def test_bad_overrides_name_the_remedy(field, text, part):
    with pytest.raises(UserError) as error:
        recipe("compact", {field: text})
    assert part in str(error.value) and "\n" not in str(error.value)


def test_unknown_recipe():
    with pytest.raises(UserError, match="paper, compact, smoke"):
        recipe("papre")


def test_configurations_are_frozen():
    for make in RECIPES.values():
        with pytest.raises(dataclasses.FrozenInstanceError):
            make().seed = 1
    assert TrainConfig() == recipe("paper")
