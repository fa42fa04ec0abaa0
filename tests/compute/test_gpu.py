"""What only a GPU can show. Skipped where there is none."""

import copy
import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import parts, training_step
from benchmarks.machine import matrix_rate
from benchmarks.photographs import photographs as photographs_of
from segment_anything_training.compact import CompactGenerator
from segment_anything_training.generator import NoiseGenerator
from segment_anything_training.image_encoder import folded_attention, tiled_attention
from segment_anything_training.prompt_batch import Prompts
from segment_anything_training.sam import SamConfig
from unseg.compute.distributed import World
from unseg.data.training_data import TrainingImage
from unseg.data.views import draw_views
from unseg.method.config import Budget
from unseg.protecting.network_protector import NetworkProtector
from unseg.training.loop import take_step
from unseg.training.players import Player, Training
from unseg.training.recipes import recipe

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture
def photographs():
    random = np.random.default_rng(0)
    pixels = [
        np.cumsum(random.integers(-3, 4, (90, 120, 3)), 1).clip(-100, 100).astype(np.int16) + 128 for _ in range(6)
    ]
    masks = [random.random((90, 120)) < 0.5 for _ in range(6)]
    return [image.astype(np.uint8) for image in pixels], masks


@pytest.mark.parametrize(
    "network",
    [
        lambda: CompactGenerator(),
        lambda: NoiseGenerator(SamConfig(256, embed_dim=96, depth=4, num_heads=4, global_blocks=(1, 3), window=7)),
    ],
)
def test_unlearnable_pixels_are_those_of_the_cpu(photographs, network):
    torch.manual_seed(0)
    network = network()
    on_cpu = [
        NetworkProtector(network, Budget(), device="cpu")(image, mask) for image, mask in zip(*photographs, strict=True)
    ]
    on_gpu = [
        NetworkProtector(network, Budget(), device="cuda", batch_size=4)(image, mask)
        for image, mask in zip(*photographs, strict=True)
    ]
    change = np.abs(np.stack(on_cpu).astype(int) - np.stack(on_gpu))
    assert change.max() <= 1 and (change > 0).mean() <= 0.001


def test_bfloat16_moves_few_pixels_and_keeps_the_bound(photographs):
    torch.manual_seed(0)
    network = NoiseGenerator(SamConfig(256, embed_dim=96, depth=4, num_heads=4, global_blocks=(1, 3), window=7))
    made = {
        precision: [
            NetworkProtector(network, Budget(), device="cuda", batch_size=4, precision=precision)(image, mask)
            for image, mask in zip(*photographs, strict=True)
        ]
        for precision in ("float32", "bfloat16")
    }
    change = np.abs(np.stack(made["float32"]).astype(int) - np.stack(made["bfloat16"]))
    assert change.max() <= 2 and (change > 0).mean() < 0.02
    for image, mask, protected in zip(*photographs, made["bfloat16"], strict=True):
        assert (np.abs(protected.astype(int) - image).max(axis=2) <= np.where(mask, 8, 2)).all()


def test_the_rate_of_matrix_products():
    assert matrix_rate(torch.device("cuda"), torch.bfloat16, seconds=0.2) > 0.1


def test_noise_does_not_depend_on_the_company_in_a_batch(photographs):
    torch.manual_seed(0)
    protector = NetworkProtector(CompactGenerator(), Budget(), device="cuda", batch_size=4)
    framed = [protector.frame(image, mask) for image, mask in zip(*photographs, strict=True)]
    alone = np.concatenate([protector.noise([item]) for item in framed[:4]])
    assert np.array_equal(protector.noise(framed[:4]), alone)
    assert np.array_equal(protector.noise(framed[:4][::-1])[::-1], alone)


def test_training_steps_on_the_gpu(photographs):
    samples = [
        TrainingImage(str(index), image, (mask.astype(np.int32) * 255,))
        for index, (image, mask) in enumerate(zip(*photographs, strict=True))
    ]
    config = dataclasses.replace(recipe("smoke"), surrogate_lifetime=2)
    training = Training.start(config, World(device=torch.device("cuda")))
    for step in range(6):
        take_step(training, draw_views(samples, config, step).to("cuda"), step)
    assert training.generator.steps == 3
    assert all(
        parameter.is_cuda and parameter.isfinite().all() for parameter in training.generator.network.parameters()
    )


def test_prompts_may_lie_on_the_gpu():
    box = torch.tensor([[4.0, 4.0, 40.0, 40.0]], device="cuda")
    noise = CompactGenerator().cuda()(torch.rand(1, 3, 64, 64, device="cuda"), Prompts(boxes=box))
    assert noise.is_cuda


# Training with networks derived from SAM


SAM = SamConfig(256, embed_dim=128, depth=2, num_heads=2, global_blocks=(1,), window=14)  # heads 64 wide, as in ViT-B


# Global attention at 1024 and at 512 pixels, and a window: 64 + 64 + 64, 64 + 32 + 32, and 64 + 14 + 14 filled up to 96
# wide.
@pytest.mark.parametrize("side", [64, 32, 14])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_has_a_fused_kernel_forward_and_backward(side, dtype):
    """An error where only the kernel that builds all logits would do; values and gradients against float64 in tiles."""
    torch.manual_seed(0)
    tokens = side * side
    inputs = [torch.randn(2, 2, tokens, 64) for _ in range(3)] + [torch.randn(2, 2, tokens, side) for _ in range(2)]
    weight, results = torch.randn(2, 2, tokens, 64), []
    for device, kind, attend in (("cpu", torch.float64, tiled_attention), ("cuda", dtype, folded_attention)):
        own = [tensor.to(device, dtype).to(kind).requires_grad_() for tensor in inputs]
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
            y = attend(*own)
            (y * weight.to(y)).sum().backward()
        results.append([tensor.double().cpu() for tensor in (y.detach(), *(tensor.grad for tensor in own))])
    for expected, found in zip(*results, strict=True):
        # 8 bits of mantissa, or the 11 of TF32, in which kernels may multiply float32.
        assert (found - expected).abs().max() < (0.03 if dtype == torch.bfloat16 else 2e-3) * expected.abs().max()


def test_attention_takes_memory_in_proportion_to_the_tokens():
    peaks = []
    for side in (32, 64):
        inputs = [
            torch.randn(1, 12, side * side, width, device="cuda", requires_grad=True)
            for width in (64, 64, 64, side, side)
        ]
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        folded_attention(*inputs).sum().backward()
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] < 8 * peaks[0]  # four times the tokens, 1.5 times as wide; all logits would take 16 times as much


def test_precision_on_the_gpu():
    """auto is bfloat16 where the GPU has it; noise stays near float32's, weights and gradients are float32."""
    torch.manual_seed(0)
    config = dataclasses.replace(recipe("paper"), view_size=256)
    images = torch.rand(2, 3, 256, 256, device="cuda")
    prompts = Prompts(boxes=torch.tensor([[9.0, 9, 99, 99]] * 2, device="cuda"))
    generator = NoiseGenerator(SAM)
    noises = []
    for precision in ("float32", "auto"):
        player = Player.start(
            "generator",
            copy.deepcopy(generator),
            1e-4,
            dataclasses.replace(config, precision=precision),
            World(device=torch.device("cuda")),
        )
        assert player.network.bf16 == (precision == "auto" and torch.cuda.is_bf16_supported(including_emulation=False))
        noises.append(player.network(images, prompts))
        noises[-1].sum().backward()
        trained = [parameter for parameter in player.network.parameters() if parameter.requires_grad]
        assert trained and all(parameter.grad.dtype == torch.float32 for parameter in trained)
    assert noises[1].dtype == torch.float32 and (noises[0] - noises[1]).abs().max() < 0.1


def test_benchmark_of_training_steps(tmp_path):
    scale = dataclasses.replace(training_step.QUICK, networks=SAM, surrogate_side=128)
    figures = training_step.compare(training_step.write_samples(tmp_path, 8), scale, torch.device("cuda"))
    assert figures["this"]["losses"] == pytest.approx(figures["plain"]["losses"], abs=0.05)
    assert all(figures[way]["images_per_second"] > 0 for way in training_step.STEPS)


# Generation


VIT = SamConfig(256, embed_dim=128, depth=4, num_heads=2, global_blocks=(1, 3), window=14)


@pytest.mark.parametrize("network", [lambda: CompactGenerator(), lambda: NoiseGenerator(VIT)], ids=["compact", "vit"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_each_precision_keeps_the_bound_at_every_pixel(photographs, network, precision):
    torch.manual_seed(0)
    images, masks = photographs
    made = NetworkProtector(network(), Budget(), device="cuda", batch_size=4, precision=precision)
    for image, mask in zip(images, masks, strict=True):
        change = np.abs(made(image, mask).astype(int) - image).max(axis=2)
        assert (change <= np.where(mask, 8, 2)).all() and change.max() > 2


def test_threads_that_share_a_protector_get_what_one_thread_gets(photographs):
    torch.manual_seed(0)
    made = NetworkProtector(NoiseGenerator(VIT), Budget(), device="cuda", batch_size=2)
    framed = [made.frame(image, mask) for image, mask in zip(*photographs, strict=True)]
    expected = [made.noise([item])[0] for item in framed]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            for found, one in zip(pool.map(lambda item: made.noise([item])[0], framed), expected, strict=True):
                assert np.array_equal(found, one)


def test_ways_are_measured(tmp_path):
    photographs_of(tmp_path / "in", 2)
    found = parts.ways(NoiseGenerator(VIT).eval(), sorted((tmp_path / "in").iterdir()), torch.device("cuda"))
    assert list(found) == list(parts.WAYS) and not any("failed" in way for way in found.values())
    assert all(way["encoder_tflops"] > 0 for way in found.values()) and found["bfloat16"]["same"] > 0.98
