"""Which device a user's word names, and what is said where there is none."""

from __future__ import annotations

import pytest
import torch

from unseg.compute.device import choose_device, device_of_gpus
from unseg.errors import UserError


@pytest.mark.parametrize(
    ("gpu", "name", "chosen"), [(False, "auto", "cpu"), (True, "auto", "cuda"), (True, "cpu", "cpu")]
)
def test_auto_is_the_gpu_where_there_is_one(monkeypatch, gpu, name, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    assert choose_device(name) == torch.device(chosen)


def test_one_of_several_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("cuda:3") == torch.device("cuda", 3)


@pytest.mark.parametrize("name", ["gpu", "cuda:x", ""])
def test_unknown_device(name):
    with pytest.raises(UserError, match=f"^--device {name}: unknown; give auto, cpu or cuda$"):
        choose_device(name)


def test_a_device_that_torch_knows_and_this_project_does_not():
    with pytest.raises(UserError, match="^--device meta: give auto, cpu or cuda$"):
        choose_device("meta")


def test_cuda_without_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="^--device cuda: torch sees no GPU here; give --device cpu$"):
        choose_device("cuda")


def test_gpus_have_a_process_each(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [device_of_gpus(count, 1) for count in (0, 1, 2)] == ["cpu", "cuda", "cuda"]
    assert device_of_gpus(0, 4) == "cpu"
    with pytest.raises(UserError, match="torch sees 2 here"):
        device_of_gpus(3, 1)
    with pytest.raises(UserError, match="--gpus 2 --processes 3: every GPU has one process"):
        device_of_gpus(2, 3)
