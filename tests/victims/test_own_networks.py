"""Networks of a user's own: what they may not answer is told in one line, before it confuses the training."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from unseg.errors import UserError
from unseg.victims.semantic_networks import build_network

OWN = """
import torch
from torch import nn

def one(classes):
    return nn.Conv2d(3, classes, 1)

def few(classes):
    return nn.Conv2d(3, classes - 1, 1)

def half(classes):
    return nn.Sequential(nn.Conv2d(3, classes, 1), nn.AvgPool2d(2))

def failing(classes):
    return nn.Sequential(nn.Conv2d(5, classes, 1))

def bare(classes):
    return nn.Identity()

def broken(classes):
    raise RuntimeError("no room")
"""


@pytest.fixture(autouse=True)
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A current folder with a module of a user's own; it does not stay imported."""
    (tmp_path / "own_victims.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield
    sys.modules.pop("own_victims", None)


def test_a_network_of_ones_own_gives_its_logits() -> None:
    network = build_network("own_victims:one", 4)
    assert network(torch.rand(2, 3, 6, 10)).shape == (2, 4, 6, 10)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("few", r"its network gives \(2, 3, 32, 64\) for images \(2, 3, 32, 64\); return logits \(2, 4, 32, 64\)"),
        ("half", r"its network gives \(2, 4, 16, 32\)"),
        ("failing", "its network fails: RuntimeError: "),
    ],
)
def test_answers_of_another_shape_are_told(name: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^--networks own_victims:{name}: {message}"):
        build_network(f"own_victims:{name}", 4)(torch.rand(2, 3, 32, 64))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bare", "its network has no parameter that learns$"),
        ("broken", r"cannot be built: RuntimeError: no room \(own_victims.py, line 21\)$"),
    ],
)
def test_a_network_that_cannot_be_trained_is_told(name: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^--networks own_victims:{name}: {message}"):
        build_network(f"own_victims:{name}", 4)
