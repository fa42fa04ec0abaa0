"""Codes that a network has changed: a new network changes nothing, and none can leave the bound."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segment_anything_training.coded import CodedGenerator, bounded
from unseg.errors import UserError
from unseg.method.coded_noise import apply_codes
from unseg.method.config import Budget
from unseg.method.learned_codes import apply_learned_codes
from unseg.method.patterns import ABSENCE, BOOK, NO_CODE
from unseg.storage.coded_weights import load_coded, save_coded

KEY = bytes(range(32))
WIDTHS = (8, 16)


def network(strength: float = 0.0, seed: int = 0) -> CodedGenerator:
    torch.manual_seed(seed)
    made = CodedGenerator(WIDTHS).eval()
    if strength:
        torch.nn.init.normal_(made.head.weight, std=strength)
    return made


def picture(height: int, width: int, channels: int = 3, kind: type = np.uint8, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(0, np.iinfo(kind).max, (height, width, channels), endpoint=True).astype(kind)


def some_codes(height: int, width: int) -> np.ndarray:
    codes = np.full((height, width), ABSENCE, np.uint8)
    codes[2 : height // 2, 3:], codes[height // 2 :, : width // 3], codes[:, -2:] = 3, 11, NO_CODE
    return codes


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_new_network_makes_the_noise_of_the_codes(channels, kind):
    image, codes = picture(37, 52, channels, kind), some_codes(37, 52)
    for budget in (Budget(8, 0), Budget(3.5, 0)):
        expected = apply_codes(image, codes, BOOK, KEY, budget)
        assert np.array_equal(apply_learned_codes(network(), image, codes, BOOK, KEY, budget), expected)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(5, 60),
    st.integers(5, 60),
    st.sampled_from([1, 3]),
    st.sampled_from([np.uint8, np.uint16]),
    st.floats(0, 40),
    st.floats(0, 5),
    st.integers(0, 10**6),
)
def test_no_network_leaves_the_bound(height, width, channels, kind, epsilon, strength, seed):
    image, codes = (
        picture(height, width, channels, kind, seed),
        np.random.default_rng(seed).integers(0, BOOK.codes + 1, (height, width)).astype(np.uint8),
    )
    changed = apply_learned_codes(network(strength, seed), image, codes, BOOK, KEY, Budget(epsilon, 2))
    assert changed.shape == image.shape and changed.dtype == image.dtype
    change = np.abs(changed.astype(int) - image)
    assert change.max(initial=0) <= epsilon * (257 if kind is np.uint16 else 1)
    assert (change[codes == ABSENCE] == 0).all()


def test_absence_and_what_is_no_class_stay_whatever_the_network_does():
    image, codes = picture(40, 61), some_codes(40, 61)
    changed = apply_learned_codes(network(3.0), image, codes, BOOK, KEY, Budget(8, 2))
    differs = (changed != image).any(axis=2)
    coded = (codes != ABSENCE) & (codes != NO_CODE)
    assert not differs[~coded].any() and differs[coded].mean() > 0.5
    assert not np.array_equal(changed, apply_codes(image, codes, BOOK, KEY, Budget(8, 0)))


def test_grey_images_stay_grey():
    image = np.repeat(picture(33, 48, 1), 3, axis=2)
    changed = apply_learned_codes(network(1.0), image, some_codes(33, 48), BOOK, KEY, Budget(8, 0))
    assert (changed == changed[..., :1]).all() and (changed != image).any()


def test_larger_images_are_seen_shrunk():
    """The bound holds there, too, and a new network's noise is that of the codes at the image's own size."""
    image, codes = picture(30, BOOK.trained_side * 2), some_codes(30, BOOK.trained_side * 2)
    expected = apply_codes(image, codes, BOOK, KEY, Budget(8, 0))
    assert np.array_equal(apply_learned_codes(network(), image, codes, BOOK, KEY, Budget(8, 0)), expected)
    changed = apply_learned_codes(network(2.0), image, codes, BOOK, KEY, Budget(8, 0))
    assert 0 < np.abs(changed.astype(int) - image).max() <= 8 and not np.array_equal(changed, expected)


def test_a_value_beyond_the_bound_can_come_back_but_go_no_further():
    values = torch.tensor([-1.5, -1.5, 0.2, 1.0, 1.5, 1.5], requires_grad=True)
    wanted = torch.tensor([1.0, -1.0, 1.0, 1.0, 1.0, -1.0])  # descent moves against these
    limited = bounded(values)
    assert limited.tolist() == pytest.approx([-1, -1, 0.2, 1, 1, 1])
    (limited * wanted).sum().backward()
    assert values.grad.tolist() == [0, -1, 1, 1, 1, 0]


def test_parts_of_any_size_and_batches():
    made = network(1.0)
    images, signs = torch.rand(2, 3, 21, 47), torch.randint(0, 2, (2, 3, 21, 47)) * 2.0 - 1
    noise = made(images, signs)
    assert noise.shape == images.shape and noise.abs().max() <= 1
    assert torch.allclose(noise[1:], made(images[1:], signs[1:]), atol=1e-5)


def test_files_are_read_strictly(tmp_path):
    torch.manual_seed(1)
    made = CodedGenerator().eval()
    torch.nn.init.normal_(made.head.weight)
    save_coded(made, tmp_path / "a.safetensors", {"step": "7"})
    loaded = load_coded(tmp_path / "a.safetensors")
    assert all(torch.equal(value, loaded.network.state_dict()[name]) for name, value in made.state_dict().items())
    save_coded(network(), tmp_path / "b.safetensors", {})
    with pytest.raises(UserError, match="b.safetensors: is not a coded generator: .*mis-shaped"):
        load_coded(tmp_path / "b.safetensors")
