"""The SAM-derived networks against the published ones (tests/conformance) and against segment_anything's own code."""

from __future__ import annotations

import builtins
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conformance.fill_weights import fill_weights
from safetensors.torch import load_file
from segment_anything import build_sam_vit_b, build_sam_vit_h, build_sam_vit_l
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.image_encoder import Attention as SamAttention
from segment_anything.modeling.image_encoder import ImageEncoderViT
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.plain_step import PlainGenerator, PlainSurrogate
from segment_anything_training import build, image_encoder, noise_decoder
from segment_anything_training.generator import NoiseGenerator, is_noise_part
from segment_anything_training.image_encoder import ImageEncoder
from segment_anything_training.prompt_batch import Prompts
from segment_anything_training.sam import ChannelNorm, Convolution3, Doubling, SamConfig
from segment_anything_training.surrogate import Surrogate
from unseg.compute.device import in_bf16
from unseg.method import letterbox, noise
from unseg.method.config import Budget
from unseg.method.noised_batches import add_noise

VECTORS = Path(__file__).parents[1] / "conformance"
SMALL_GENERATOR = SamConfig(256, embed_dim=96, depth=4, num_heads=4, global_blocks=(1, 3), window=7)
SMALL_SURROGATE = SamConfig(128, embed_dim=96, depth=4, num_heads=4, global_blocks=(1, 3), window=7)


def shapes(network: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in network.state_dict().items()}


def published_shapes(name: str) -> dict[str, list[int]]:
    return json.loads((VECTORS / f"state_dict_{name}.json").read_text())


def filled(network: torch.nn.Module) -> torch.nn.Module:
    fill_weights(network)
    return network.eval()


@pytest.fixture(scope="module")
def vectors() -> dict[str, torch.Tensor]:
    return load_file(VECTORS / "small.safetensors")


@pytest.fixture(scope="module")
def generator() -> NoiseGenerator:
    return filled(NoiseGenerator(SMALL_GENERATOR))


def batch_of(vectors: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    return torch.stack([vectors[f"input.{name}.{i}"] for i in range(2)])


def prompts_of(vectors: dict[str, torch.Tensor], kinds: str) -> Prompts:
    return Prompts(
        masks=batch_of(vectors, "mask_inputs")[:, 0] if "mask" in kinds else None,
        boxes=batch_of(vectors, "boxes")[:, 0] if "box" in kinds else None,
        points=batch_of(vectors, "point_coords")[:, 0] if "points" in kinds else None,
    )


# State names


def test_published_state_names():
    assert shapes(NoiseGenerator(SMALL_GENERATOR)) == published_shapes("generator_small")
    assert shapes(Surrogate(SMALL_SURROGATE)) == published_shapes("surrogate_small")
    with torch.device("meta"):
        assert shapes(build.build_generator("vit_b")) == published_shapes("generator_vit_b")
        assert shapes(build.build_surrogate("vit_b")) == published_shapes("surrogate_vit_b")


@pytest.mark.parametrize(
    ("name", "official"), [("vit_b", build_sam_vit_b), ("vit_l", build_sam_vit_l), ("vit_h", build_sam_vit_h)]
)
def test_generator_without_noise_parts_is_sam(name, official):
    with torch.device("meta"):
        ours, sam = shapes(build.build_generator(name)), shapes(official())
    assert {key: shape for key, shape in ours.items() if not is_noise_part(key)} == sam


# Conformance vectors


@pytest.mark.parametrize("kinds", ["none", "mask", "box", "points", "points_mask", "box_points_mask"])
def test_noise_equals_published(generator, vectors, kinds):
    with torch.no_grad():
        noise_B3NN = generator(batch_of(vectors, "image"), prompts_of(vectors, kinds))
    torch.testing.assert_close(noise_B3NN, vectors[f"noise.{kinds}"], rtol=0, atol=1e-4)


def test_noise_equals_published_with_the_attention_of_gpus(generator, vectors, monkeypatch):
    monkeypatch.setattr(image_encoder, "tiled_attention", image_encoder.folded_attention)
    with torch.no_grad():
        noise_B3NN = generator(batch_of(vectors, "image"), prompts_of(vectors, "mask"))
    torch.testing.assert_close(noise_B3NN, vectors["noise.mask"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("player", [lambda: NoiseGenerator(SMALL_GENERATOR), lambda: Surrogate(SMALL_SURROGATE)])
def test_padding_is_black_before_it_is_normalised(player):
    """The published code pads with zeros, then normalises; SAM's own pads after, with zeros at the encoder."""
    network, fed = player(), []
    network.image_encoder.register_forward_pre_hook(lambda module, given: fed.append(given[0]))
    side = network.image_size
    image = np.full((40, 100, 3), 255, np.uint8)  # two fifths of the frame are image
    frame = torch.from_numpy(letterbox.image_frame(image, side))[None]
    with torch.no_grad():
        network(frame, Prompts())
    at_the_bottom, at_the_top = fed[0][0, :, -1, side // 3], fed[0][0, :, 0, side // 3]
    # (0 - mean) / std and (1 - mean) / std of ImageNet
    torch.testing.assert_close(at_the_bottom, torch.tensor([-2.117904, -2.035714, -1.804444]), rtol=0, atol=1e-5)
    torch.testing.assert_close(at_the_top, torch.tensor([2.248908, 2.428571, 2.64]), rtol=0, atol=1e-5)


# A batch at once against segment_anything's own modules, one image at a time


def prompts_for(side: int, mask_size: int, given: torch.Tensor | None) -> Prompts:
    torch.manual_seed(3)
    masks = 255.0 * (torch.rand(4, 1, mask_size, mask_size) > 0.5)
    corners = torch.rand(4, 2, 2).sort(dim=1).values * side
    return Prompts(masks, corners.flatten(1).round(), (torch.rand(4, 10, 2) * side).round(), given)


EVERY_SUBSET = torch.tensor([[bool(subset & 1), bool(subset & 2), bool(subset & 4)] for subset in range(8)])


@pytest.mark.parametrize("given", [None, EVERY_SUBSET[:4], EVERY_SUBSET[4:], EVERY_SUBSET[[1, 1, 2, 4]]])
@pytest.mark.parametrize("network", ["generator", "surrogate"])
def test_a_batch_equals_one_by_one_forward_and_backward(network, given):
    """Every combination of prompts within one batch, noise or logits and every gradient, within 1e-5 of the largest."""
    if network == "generator":
        config = replace(SMALL_GENERATOR, image_size=128)
        ours, reference = (make(filled(NoiseGenerator(config))) for make in (lambda network: network, PlainGenerator))
    else:
        ours, reference = (
            make(filled(Surrogate(SMALL_SURROGATE))) for make in (lambda network: network, PlainSurrogate)
        )
    torch.manual_seed(0)
    prompts = prompts_for(128, 32, given)
    images, weights = torch.rand(4, 3, 128, 128), torch.randn(4, 3, 32, 32)
    outputs, grads = [], []
    for player in (ours, reference):
        pixels = images.clone().requires_grad_()
        outputs.append(player(pixels, prompts))
        (outputs[-1] * weights[:, : outputs[-1].shape[1]]).sum().backward()
        named = {name.removeprefix("network."): parameter for name, parameter in player.named_parameters()}
        if network == "surrogate":
            named["pixels"] = pixels
        grads.append(
            {name: torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for name, tensor in named.items()}
        )
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=1e-5 * max(1, outputs[1].abs().max().item()))
    assert sum(expected.abs().sum() > 0 for expected in grads[1].values()) > 30
    for name, expected in grads[1].items():
        torch.testing.assert_close(
            grads[0][name], expected, rtol=0, atol=1e-5 * max(1, expected.abs().max().item()), msg=name
        )


def test_what_is_not_given_is_not_seen(generator):
    given = EVERY_SUBSET[[1, 2, 4, 0]]
    prompts = prompts_for(256, 64, given)
    other = Prompts(
        torch.where(given[:, 0, None, None, None], prompts.masks, 7.0),
        torch.where(given[:, 1, None], prompts.boxes, 3.0),
        torch.where(given[:, 2, None, None], prompts.points, 5.0),
        given,
    )
    images = torch.rand(4, 3, 256, 256)
    with torch.no_grad():
        torch.testing.assert_close(generator(images, prompts), generator(images, other), rtol=0, atol=0)
        changed = Prompts(prompts.masks, prompts.boxes + 40, prompts.points, given)
        differs = (generator(images, prompts) != generator(images, changed)).flatten(1).any(1)
    assert differs.tolist() == [False, True, False, False]


def test_prompts_of_one_image():
    prompts = prompts_for(128, 32, EVERY_SUBSET[4:])
    second = prompts.of_image(1)  # mask and points
    assert torch.equal(second.masks, prompts.masks[1:2]) and torch.equal(second.points, prompts.points[1:2])
    assert second.boxes is None and second.given is None
    assert Prompts(boxes=prompts.boxes).of_image(3).boxes.tolist() == [prompts.boxes[3].tolist()]
    assert prompts.to("cpu").given is not None and prompts[1:3].given.tolist() == EVERY_SUBSET[5:7].tolist()


def test_noise_states_start_one_token_early(generator, vectors, monkeypatch):
    """The published weights expect position 4; either neighbour misses the vectors far beyond their 1e-4."""
    assert noise_decoder.NOISE_STATES_START == 4
    for start in (3, 5):
        monkeypatch.setattr(noise_decoder, "NOISE_STATES_START", start)
        with torch.no_grad():
            noise_B3NN = generator(batch_of(vectors, "image"), Prompts())
        assert (noise_B3NN - vectors["noise.none"]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["box", "points", "mask"])
def test_surrogate_equals_published(vectors, kind):
    surrogate = filled(Surrogate(SMALL_SURROGATE))
    label_B1SS = torch.nn.functional.interpolate(vectors["input.label"] / 255, (128, 128), mode="bilinear").round()
    images = add_noise(
        batch_of(vectors, "surrogate_image"), vectors["noise.mask"], label_B1SS, Budget(object=1, background=0.25)
    )
    torch.testing.assert_close(
        surrogate.normalise(images)[0], vectors["surrogate.normalised_input.0"], rtol=0, atol=1e-5
    )
    prompts = prompts_of(vectors, kind)
    halved = Prompts(
        masks=None if prompts.masks is None else prompts.masks[:, :, ::2, ::2],
        boxes=None if prompts.boxes is None else prompts.boxes / 2,
        points=None if prompts.points is None else prompts.points / 2,
    )
    with torch.no_grad():
        logits = surrogate(images, halved)
    torch.testing.assert_close(logits, vectors[f"logits.{kind}"], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_vit_b_noise_equals_published():
    row, column = torch.arange(1024.0)[:, None], torch.arange(1024.0)[None, :]
    image = torch.stack(
        [0.5 + 0.25 * torch.sin(row * (c + 1) / 37) + 0.25 * torch.cos(column * (c + 2) / 53) for c in range(3)]
    )
    disc = (torch.arange(256)[:, None] - 120) ** 2 + (torch.arange(256)[None, :] - 140) ** 2 < 70**2
    generator = filled(build.build_generator("vit_b"))
    with torch.no_grad():
        noise_13NN = generator(image[None], Prompts(masks=255.0 * disc[None, None]))
    expected = load_file(VECTORS / "vit_b.safetensors")["noise_every_4th"]
    torch.testing.assert_close(noise_13NN[:, :, ::4, ::4], expected, rtol=0, atol=2e-4)


def test_unlearnable_image_equals_published():
    """From image, label and noise to the finished image, to the last bit."""
    vectors = load_file(VECTORS / "apply_noise.safetensors")
    image, label = vectors["image"].permute(1, 2, 0).numpy(), vectors["label"].numpy()
    fed = torch.from_numpy(letterbox.image_frame(image, 1024))[None, :, ::16, ::16]
    torch.testing.assert_close(fed, vectors["generator_input"], rtol=0, atol=1e-6)
    for mode, mask in (("all", (label != 0) & (label != 255)), ("single_6", label == 6)):
        prompt = letterbox.mask_prompt(mask, 1024, 256)
        assert np.array_equal(prompt[None], vectors[f"{mode}.mask_prompt"].numpy())
        region = noise.published_region(prompt[0], *label.shape)
        unlearnable = noise.apply(image, vectors["noise"][0].numpy(), region, Budget(object=8, background=2))
        assert np.array_equal(unlearnable.transpose(2, 0, 1), vectors[f"{mode}.unlearnable_image"].numpy())


# Attention


def attention_pair(size: int, dim: int = 32, heads: int = 4) -> tuple[image_encoder.Attention, SamAttention]:
    """This project's attention and segment_anything's, with equal weights."""
    torch.manual_seed(0)
    reference = SamAttention(dim, heads, use_rel_pos=True, input_size=(size, size))
    torch.nn.init.normal_(reference.rel_pos_h)
    torch.nn.init.normal_(reference.rel_pos_w)
    ours = image_encoder.Attention(dim, heads, size)
    ours.load_state_dict(reference.state_dict())
    return ours, reference


# All heads in one tile; three whole heads a tile, the last tile partial; rows of one head, the last tile partial; one
# query.
@pytest.mark.parametrize("tile_elements", [1 << 20, 20_000, 1000, 1])
def test_attention_forward_equals_sam(monkeypatch, tile_elements):
    monkeypatch.setattr(image_encoder, "TILE_ELEMENTS", tile_elements)
    ours, reference = attention_pair(size=9)
    x = torch.randn(2, 9, 9, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), reference(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("tile_elements", [1 << 20, 80, 20, 1])  # as above, of 3 heads with 6 × 6 logits
def test_tiled_attention_gradients_equal_numerical_ones(monkeypatch, tile_elements):
    monkeypatch.setattr(image_encoder, "TILE_ELEMENTS", tile_elements)
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 3, 6, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    rel_h, rel_w = (torch.randn(1, 3, 6, side, dtype=torch.float64, requires_grad=True) for side in (2, 3))
    assert torch.autograd.gradcheck(image_encoder.tiled_attention, (q, k, v, rel_h, rel_w))


@pytest.mark.parametrize("attend", ["tiled_attention", "folded_attention"])
def test_attention_gradients_equal_sam(monkeypatch, attend):
    monkeypatch.setattr(image_encoder, "tiled_attention", getattr(image_encoder, attend))
    ours, reference = attention_pair(size=9)
    inputs = [torch.randn(2, 9, 9, 32).requires_grad_()]
    inputs.append(inputs[0].detach().clone().requires_grad_())
    weight = torch.randn(2, 9, 9, 32)
    for attention, x in zip((ours, reference), inputs, strict=True):
        (attention(x) * weight).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-4, atol=1e-4)
    expected = dict(reference.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-4, atol=1e-3, msg=name)


def test_attention_in_half_precision_is_near(monkeypatch):
    """bfloat16 on a CPU goes through the fused kernel; 8 bits of mantissa leave errors of a few thousandths."""
    ours, reference = attention_pair(size=9)
    monkeypatch.setattr(image_encoder, "tiled_attention", None)
    x = torch.randn(2, 9, 9, 32)
    with torch.no_grad():
        expected = reference(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = ours(x)
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).abs().max() < 0.03 * expected.abs().max()


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that any operation's result had."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("gradients", [False, True])
def test_attention_never_builds_all_logits(gradients):
    size, heads = 48, 2
    logits_of_one_head = size**4
    ours, reference = attention_pair(size, dim=32, heads=heads)
    x = torch.randn(1, size, size, 32)
    with torch.set_grad_enabled(gradients):
        with LargestTensor() as largest:
            y = ours(x)
            if gradients:
                y.sum().backward()
        with LargestTensor() as largest_of_sam:
            reference(x)
    assert largest.elements <= max(image_encoder.TILE_ELEMENTS, logits_of_one_head // 4)
    assert largest_of_sam.elements >= heads * logits_of_one_head


def test_encoder_equals_sam_and_returns_first_global_block():
    config = SMALL_GENERATOR
    reference = ImageEncoderViT(
        img_size=config.image_size,
        embed_dim=config.embed_dim,
        depth=config.depth,
        num_heads=config.num_heads,
        use_rel_pos=True,
        window_size=config.window,
        global_attn_indexes=config.global_blocks,
        norm_layer=lambda dim: torch.nn.LayerNorm(dim, eps=1e-6),
    )
    ours = ImageEncoder(config)
    fill_weights(reference)
    ours.load_state_dict(reference.state_dict())
    kept = []
    reference.blocks[config.global_blocks[0]].register_forward_hook(lambda module, args, output: kept.append(output))
    images = torch.randn(1, 3, config.image_size, config.image_size)
    with torch.no_grad():
        embedding, features = ours(images)
        torch.testing.assert_close(embedding, reference(images), rtol=0, atol=1e-4)
    torch.testing.assert_close(features, kept[0].permute(0, 3, 1, 2), rtol=0, atol=1e-4)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_fused_norm_equals_sam(memory_format):
    torch.manual_seed(0)
    reference, ours = LayerNorm2d(24), ChannelNorm(24)
    torch.nn.init.normal_(reference.weight)
    torch.nn.init.normal_(reference.bias)
    ours.load_state_dict(reference.state_dict())
    results = []
    for norm in (reference, ours):
        x = (torch.randn(2, 24, 5, 7, generator=torch.Generator().manual_seed(1)) * 3 + 1).to(
            memory_format=memory_format
        )
        y = norm(x.requires_grad_())
        (y * torch.arange(y.numel()).view(y.shape)).sum().backward()
        results.append((y, x.grad, norm.weight.grad, norm.bias.grad))
    for found, expected in zip(*reversed(results), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    assert results[1][0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "ours, reference",
    [
        (Doubling(6, 4), torch.nn.ConvTranspose2d(6, 4, kernel_size=2, stride=2)),
        (Convolution3(6, 4), torch.nn.Conv2d(6, 4, kernel_size=3, padding=1)),
    ],
)
def test_convolutions_equal_torch(ours, reference, memory_format):
    ours.load_state_dict(reference.state_dict())
    results = []
    for layer in (reference.to(memory_format=torch.contiguous_format), ours.to(memory_format=memory_format)):
        layer.zero_grad()
        x = (
            torch.randn(2, 6, 5, 7, generator=torch.Generator().manual_seed(1))
            .to(memory_format=memory_format)
            .requires_grad_()
        )
        y = layer(x)
        (y * torch.arange(y.numel()).view(y.shape)).sum().backward()
        results.append((y, x.grad, layer.weight.grad, layer.bias.grad))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), results[0][0])
    for found, expected in zip(*reversed(results), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_no_slow_layer_of_sams_is_left(generator):
    for network in (generator, Surrogate(SMALL_SURROGATE)):
        slow = {LayerNorm2d, torch.nn.ConvTranspose2d}
        assert not [name for name, module in network.named_modules() if type(module) in slow]


# Training


def test_only_noise_parts_train():
    with torch.device("meta"):
        generator = build.build_generator("vit_b")
    trained = {name: parameter for name, parameter in generator.named_parameters() if parameter.requires_grad}
    assert trained.keys() == {name for name, _ in generator.named_parameters() if is_noise_part(name)}
    assert round(sum(parameter.numel() for parameter in trained.values()) / 1e6, 2) == 7.25
    assert round(sum(parameter.numel() for parameter in generator.parameters()) / 1e6) == 101


def test_generator_gradients_reach_every_noise_part_and_no_other(vectors):
    generator = filled(NoiseGenerator(SMALL_GENERATOR))
    generator(batch_of(vectors, "image"), prompts_of(vectors, "mask")).sum().backward()
    for name, parameter in generator.named_parameters():
        if is_noise_part(name):
            assert parameter.grad.abs().sum() > 0, name
        else:
            assert parameter.grad is None, name


def test_nothing_is_kept_of_the_frozen_encoder(generator, vectors):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        embeddings, first_global = generator.image_encoder(batch_of(vectors, "image"))
    assert not kept and not embeddings.requires_grad
    generator.image_encoder.requires_grad_(True)  # whatever a caller asks of it
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor.shape) or tensor, lambda tensor: tensor
    ):
        generator(batch_of(vectors, "image"), Prompts()).sum().backward()
    generator.image_encoder.requires_grad_(False)
    assert torch.Size([2, 16, 16, 4 * 96]) not in kept and generator.image_encoder.pos_embed.grad is None


def test_a_frozen_surrogate_computes_no_gradient_of_weights():
    """Backward through matrix products costs as much again for the input alone, twice that with the weights."""
    surrogate, prompts = Surrogate(SMALL_SURROGATE), Prompts(boxes=torch.tensor([[8.0, 8, 90, 70]] * 2))
    costs = []
    for trains in (False, True):
        surrogate.requires_grad_(trains)
        with FlopCounterMode(display=False) as forward:
            loss = surrogate(torch.rand(2, 3, 128, 128, requires_grad=True), prompts).sum()
        with FlopCounterMode(display=False) as backward:
            loss.backward()
        costs.append(backward.get_total_flops() / forward.get_total_flops())
        assert all((parameter.grad is not None) <= trains for parameter in surrogate.parameters())
    assert 0.9 < costs[0] < 1.35 and costs[1] > costs[0] + 0.7


def test_surrogate_gradients_reach_its_input():
    surrogate = Surrogate(SMALL_SURROGATE)
    images = torch.rand(2, 3, 128, 128, requires_grad=True)
    surrogate(images, Prompts(boxes=torch.tensor([[8.0, 8, 90, 70]] * 2))).sum().backward()
    assert (images.grad.abs().sum(dim=(1, 2, 3)) > 0).all()
    assert all(parameter.requires_grad for parameter in surrogate.parameters())
    assert surrogate.image_encoder.pos_embed.grad.abs().sum() > 0


def test_noise_parts_start_xavier_uniform():
    decoder = noise_decoder.NoiseDecoder(encoder_dim=96)
    layers = {
        decoder.noise_token: 3 + 256,
        decoder.noise_compress_vit_feat[0]: 9 * (96 + 96),
        decoder.noise_embedding_encoder[3]: 4 * (256 + 64),
        decoder.noise_embedding_maskfeature[3]: 9 * (64 + 32),
    }
    for layer, fans in layers.items():
        bound = (6 / fans) ** 0.5
        assert 0.95 * bound < layer.weight.abs().max() <= bound


# Building and misuse


def test_build_names():
    assert build.NAMES == ("vit_b", "vit_l", "vit_h", "compact")
    for make in (build.build_generator, build.build_surrogate):
        with pytest.raises(ValueError, match="'vit_x'; available: vit_b, vit_l, vit_h, compact"):
            make("vit_x")


def test_sizes_of_the_interface(generator):
    assert (generator.image_size, generator.mask_size, generator.antialias) == (256, 64, False)
    with torch.device("meta"):
        surrogate = build.build_surrogate("vit_b")
    assert (surrogate.image_size, surrogate.mask_size) == (512, 128)


def test_constructors_open_no_file(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError(f"opened {args[0]}")

    monkeypatch.setattr(builtins, "open", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    NoiseGenerator(SMALL_GENERATOR)
    Surrogate(SMALL_SURROGATE)


def test_misuse_is_named(generator):
    with pytest.raises(ValueError, match=r"images: expected B×3×256×256, got \(1, 3, 128, 128\)"):
        generator(torch.zeros(1, 3, 128, 128), Prompts())
    with pytest.raises(ValueError, match="prompts.boxes: 1 entries for 2 images"):
        generator(torch.zeros(2, 3, 256, 256), Prompts(boxes=torch.zeros(1, 4)))
    with pytest.raises(ValueError, match="multiple of 16"):
        SamConfig(100, embed_dim=96, depth=4, num_heads=4, global_blocks=(1,))
    with pytest.raises(ValueError, match="global_blocks"):
        SamConfig(256, embed_dim=96, depth=4, num_heads=4, global_blocks=())


# How a network computes


def test_speed_settings_reach_the_networks_they_are_for():
    for network, takes_bf16 in (
        (NoiseGenerator(SMALL_GENERATOR), True),
        (Surrogate(SMALL_SURROGATE), True),
        (build.build_generator("compact"), False),
    ):
        names = list(network.state_dict())
        build.set_speed(network, bf16=True)
        assert getattr(network, "bf16", False) is takes_bf16
        assert list(network.state_dict()) == names


def test_half_precision_stays_near_and_trains_float32_weights(vectors):
    """Of bfloat16's 8 bits about two decimals are left; noise, logits, prompts, weights, gradients are float32."""
    generator = filled(NoiseGenerator(SMALL_GENERATOR))
    build.set_speed(generator, bf16=True)
    noise_B3NN = generator(batch_of(vectors, "image"), prompts_of(vectors, "box_points_mask"))
    expected = vectors["noise.box_points_mask"]
    assert noise_B3NN.dtype == torch.float32
    difference = (noise_B3NN.detach() - expected).abs()
    assert 1e-4 < difference.max() < 0.1 and difference.mean() < 0.01
    noise_B3NN.sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in generator.parameters() if parameter.requires_grad)
    surrogate = Surrogate(SMALL_SURROGATE)
    build.set_speed(surrogate, bf16=True)
    images = torch.rand(2, 3, 128, 128, requires_grad=True)
    logits = surrogate(images, Prompts(boxes=torch.tensor([[8.0, 8, 90, 70]] * 2)))
    logits.sum().backward()
    assert logits.dtype == images.grad.dtype == torch.float32 and images.grad.isfinite().all()


def test_precision_is_the_devices_unless_named():
    assert not in_bf16("auto", torch.device("cpu")) and in_bf16("bf16", torch.device("cpu"))
    assert not in_bf16("float32", torch.device("cuda"))
