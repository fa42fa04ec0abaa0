"""Recipes carry the published numbers, and overrides are checked."""
import dataclasses

import pytest

from unseg.config import Budget, TrainConfig
from unseg.errors import UserError
from unseg.recipes import RECIPES, recipe


def test_the_papers_numbers():
    config = recipe("paper")
    assert (config.generator, config.surrogates) == ("vit_b", ("vit_b",))
    assert [config.phases[epoch % 4] for epoch in range(5)] == ["surrogate", "generator", "generator", "generator", "surrogate"]
    assert (config.total_phases, config.steps_per_phase, config.decay_phase) == (27, 0, 20)
    assert (config.generator_learning_rate, config.surrogate_learning_rate, config.final_learning_rate_factor) == (1e-4, 1e-4, 0.1)
    assert config.budget == Budget(1, 0.25) and config.target == "ones" and config.loss_points == 12544
    assert (config.view_size, config.surrogate_sizes, config.jitter, config.flip) == (1024, (512,), (0.1, 2.0), 0.5)
    assert config.batch_size == 4 and config.seed == 42 and not config.antialias


@pytest.mark.parametrize("field, text, value", [
    ("batch_size", "2", 2), ("budget", "4,1", Budget(4, 1)), ("target", "mask", "mask"), ("antialias", "true", True),
    ("surrogate_sizes", "64, 96", (64, 96)), ("jitter", "0.5,1.5", (0.5, 1.5)), ("surrogate_prompts", "", ()),
])
def test_overrides(field, text, value):
    assert getattr(recipe("compact", {field: text}), field) == value


@pytest.mark.parametrize("field, text, part", [
    ("batch_size", "two", "whole number"), ("batch_size", "0", "from 1"), ("colour", "1", "unknown"), ("target", "zeros", "ones"),
    ("jitter", "1", "separated"), ("antialias", "maybe", "true or false"), ("phases", "critic", "surrogate"),
    ("generator_prompts", "", "choose"), ("budget", "300,2", "0 to 255"), ("generator_learning_rate", "-1", "above 0"),
])
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
