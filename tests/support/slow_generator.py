"""The tests' generator, a fifth of a second an image: time to be interrupted on the busiest machine."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from segment_anything_training.prompt_batch import Prompts
from tests.support import fake_generator
from unseg.storage.weights import LoadedGenerator


class SlowGenerator(fake_generator.FakeGenerator):
    def forward(self, images: torch.Tensor, prompts: Prompts) -> torch.Tensor:
        time.sleep(0.2)
        return super().forward(images, prompts)


def loaded() -> LoadedGenerator:
    return replace(fake_generator.loaded(), network=SlowGenerator().eval())
