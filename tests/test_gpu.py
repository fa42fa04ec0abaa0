"""What only a GPU can show. Skipped where there is none."""
import dataclasses

import numpy as np
import pytest
import torch

from segment_anything_training.compact import CompactGenerator
from segment_anything_training.generator import NoiseGenerator
from segment_anything_training.prompts import Prompts
from segment_anything_training.sam import SamConfig
from unseg.bilevel import take_step
from unseg.config import Budget
from unseg.data.training import TrainingImage
from unseg.data.views import draw_views
from unseg.distributed import World
from unseg.protect import Protector
from unseg.recipes import recipe
from unseg.training_state import Training

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture
def photographs():
    random = np.random.default_rng(0)
    pixels = [np.cumsum(random.integers(-3, 4, (90, 120, 3)), 1).clip(-100, 100).astype(np.int16) + 128 for _ in range(6)]
    masks = [random.random((90, 120)) < 0.5 for _ in range(6)]
    return [image.astype(np.uint8) for image in pixels], masks


@pytest.mark.parametrize("network", [
    lambda: CompactGenerator(),
    lambda: NoiseGenerator(SamConfig(256, embed_dim=96, depth=4, num_heads=4, global_blocks=(1, 3), window=7)),
])
def test_unlearnable_pixels_are_those_of_the_cpu(photographs, network):
    torch.manual_seed(0)
    network = network()
    on_cpu = [Protector(network, Budget())(image, mask) for image, mask in zip(*photographs)]
    on_gpu = [Protector(network, Budget(), device="cuda", batch_size=4)(image, mask) for image, mask in zip(*photographs)]
    change = np.abs(np.stack(on_cpu).astype(int) - np.stack(on_gpu))
    assert change.max() <= 1 and (change > 0).mean() <= 0.001


def test_noise_does_not_depend_on_the_company_in_a_batch(photographs):
    torch.manual_seed(0)
    protector = Protector(CompactGenerator(), Budget(), device="cuda", batch_size=4)
    framed = [protector.frame(image, mask) for image, mask in zip(*photographs)]
    alone = torch.cat([protector.noise([item]) for item in framed[:4]])
    assert torch.equal(protector.noise(framed[:4]), alone)
    assert torch.equal(protector.noise(framed[:4][::-1]).flip(0), alone)


def test_training_steps_on_the_gpu(photographs):
    samples = [TrainingImage(str(index), image, (mask.astype(np.int32) * 255,))
               for index, (image, mask) in enumerate(zip(*photographs))]
    config = dataclasses.replace(recipe("smoke"), surrogate_lifetime=2)
    training = Training.start(config, World(device=torch.device("cuda")))
    for step in range(6):
        take_step(training, draw_views(samples, config, step).to("cuda"), step)
    assert training.generator.steps == 3
    assert all(parameter.is_cuda and parameter.isfinite().all() for parameter in training.generator.network.parameters())


def test_prompts_may_lie_on_the_gpu():
    box = torch.tensor([[4.0, 4.0, 40.0, 40.0]], device="cuda")
    noise = CompactGenerator().cuda()(torch.rand(1, 3, 64, 64, device="cuda"), Prompts(boxes=box))
    assert noise.is_cuda
