"""Each defence changes what it should and nothing else, by values computed by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.photographs import SHIPPED
from tests.support.told_progress import Told
from unseg.errors import UserError
from unseg.evaluation.conditions import reencoded
from unseg.evaluation.defences import notch, projection
from unseg.evaluation.defences.adversarial import adversarial_training
from unseg.evaluation.defences.chain import fit_chain, sized_like
from unseg.evaluation.defences.cutmix import cutmix
from unseg.evaluation.defences.defence_names import DEFENCES, Tools, parse_chain, parse_defence
from unseg.evaluation.defences.denoise import CROP, Denoiser, denoise, denoised, train_denoiser
from unseg.evaluation.defences.kinds import Batch, BatchDefence, ImageDefence, ScoreDefence, SetDefence, TrainingSet
from unseg.method.coded_noise import apply_codes
from unseg.method.config import Budget
from unseg.method.patterns import ONE_CODE_BOOK, CodeBook
from unseg.storage.image_decoding import read_image

PHOTO = np.random.default_rng(0).integers(0, 256, (30, 47, 3)).astype(np.uint8)


def changed(name: str, pixels: np.ndarray, image_name: str = "a") -> np.ndarray:
    defence = parse_defence(name)
    assert isinstance(defence, ImageDefence)
    before = pixels.copy()
    after = defence.change(image_name, pixels)
    assert np.array_equal(pixels, before), "the input is not written to"
    assert after.dtype == np.uint8
    return after


# --- names -----------------------------------------------------------------------------------------------------------


def test_every_example_is_a_defence_of_its_name() -> None:
    tools = Tools(pairs=list)
    for row in DEFENCES.values():
        assert parse_defence(row.example, tools).name == row.example


def test_only_what_changes_the_look_of_all_images_acts_at_test() -> None:
    tools = Tools(pairs=list)
    at_test = {row.example for row in DEFENCES.values() if parse_defence(row.example, tools).at_test}
    assert at_test == {"grey", "whiten", "equalize", "resize640"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("jpg75", "unknown defence 'jpg75'"),
        ("jpeg", "unknown defence 'jpeg'"),
        ("grey3", "unknown defence 'grey3'"),
        ("", "unknown defence ''"),
        ("jpeg0", "jpeg0: give a number from 1 to 100"),
        ("jpeg101", "such as jpeg75"),
        ("bits8", "from 1 to 7"),
        ("median4", "give an odd side"),
        ("grey+grey", "grey stands twice"),
        ("denoise", "needs other photographs"),
    ],
)
def test_unknown_names_are_refused(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_chain(name)


def test_chains_keep_their_order() -> None:
    assert [defence.name for defence in parse_chain("jpeg75+grey+early")] == ["jpeg75", "grey", "early"]
    assert parse_chain("none") == ()


# --- images ----------------------------------------------------------------------------------------------------------


def test_jpeg_is_what_a_reader_gets() -> None:
    assert np.array_equal(changed("jpeg30", PHOTO), reencoded(PHOTO, 30))
    assert not np.array_equal(changed("jpeg30", PHOTO), changed("jpeg90", PHOTO))


def test_grey_by_hand() -> None:
    # 0.299 · 200 + 0.587 · 100 + 0.114 · 50 = 124.2
    assert changed("grey", np.array([[[200, 100, 50]]], np.uint8)).tolist() == [[[124, 124, 124]]]


def test_blur_by_hand() -> None:
    """A single bright pixel becomes the Gaussian: at the centre 1/(Σ e^(−x²/2))² = 0.1592 for sigma 1."""
    image = np.zeros((15, 21, 3), np.uint8)
    image[7, 9] = 255
    blurred = changed("blur1", image)
    assert abs(int(blurred[7, 9, 0]) - 0.1592 * 255) <= 1
    assert abs(int(blurred[7, 10, 0]) - 0.1592 * np.exp(-0.5) * 255) <= 1
    assert abs(int(blurred[8, 10, 0]) - 0.1592 * np.exp(-1) * 255) <= 1
    assert blurred[0, 0, 0] == 0


def test_bits_by_hand() -> None:
    values = np.array([[[0, 8, 9], [127, 128, 255]]], np.uint8)
    # 4 bits: multiples of 17. 8/17 = 0.47 → 0, 9/17 = 0.53 → 17, 127/17 = 7.47 → 119, 128/17 = 7.53 → 136.
    assert changed("bits4", values).tolist() == [[[0, 0, 17], [119, 136, 255]]]
    assert changed("bits1", values).tolist() == [[[0, 0, 0], [0, 255, 255]]]


def test_noise_has_its_strength_and_follows_the_name() -> None:
    flat = np.full((80, 90, 3), 128, np.uint8)
    noise = changed("noise4", flat).astype(float) - 128
    assert abs(noise.std() - np.sqrt(16 + 1 / 12)) < 0.1 and abs(noise.mean()) < 0.1
    assert np.array_equal(changed("noise4", flat), changed("noise4", flat))
    assert not np.array_equal(changed("noise4", flat), changed("noise4", flat, "b"))


def test_median_by_hand() -> None:
    image = np.zeros((5, 7, 3), np.uint8)
    image[2, 3] = 255  # alone: gone
    image[0, :3] = 90  # a border repeats itself: 6 of the 9 pixels around (0, 1) are 90
    after = changed("median3", image)
    assert (after[2, 3] == 0).all() and (after[0, 1] == 90).all()


def test_half_and_quarter_by_hand() -> None:
    checkers = np.indices((16, 24)).sum(0) % 2 * 100
    image = np.repeat(checkers[..., None], 3, 2).astype(np.uint8)
    assert (changed("half", image) == 50).all()
    stripes = np.zeros((16, 24, 3), np.uint8)
    stripes[:, 12:] = 80  # an edge between blocks of 2 and of 4 stays where it is, and its sides keep their values
    for name in ("half", "quarter"):
        after = changed(name, stripes)
        assert after.shape == stripes.shape and (after[:, :8] == 0).all() and (after[:, 16:] == 80).all()
        assert (np.diff(after[0, :, 0].astype(int)) >= 0).all()


def test_resize_shrinks_large_images_only() -> None:
    large = np.zeros((100, 300, 3), np.uint8)
    large[:, :150] = 200
    after = changed("resize120", large)
    assert after.shape == (40, 120, 3) and (after[:, :60] == 200).all() and (after[:, 60:] == 0).all()
    assert changed("resize640", PHOTO) is PHOTO


def test_whiten_by_hand() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[..., 0] = [[100, 100], [120, 120]]  # mean 110, spread 10: −1 and 1
    image[..., 1] = 77  # one value: the mean
    image[..., 2] = [[0, 200], [200, 0]]
    after = changed("whiten", image)
    # ImageNet in grey levels: means 123.675, 116.28, 103.53; spreads 58.395, 57.12, 57.375.
    assert after[..., 0].tolist() == [[65, 65], [182, 182]]
    assert (after[..., 1] == 116).all()
    assert after[..., 2].tolist() == [[46, 161], [161, 46]]


def test_whiten_takes_out_any_tint() -> None:
    image = np.random.default_rng(0).integers(60, 190, (30, 41, 3))
    tinted = image * [1.0, 1.1, 0.9] + [8, -8, 8]
    difference = changed("whiten", image.astype(np.uint8)).astype(int) - changed(
        "whiten", np.round(tinted).astype(np.uint8)
    )
    assert np.abs(difference).max() <= 2


def test_equalize_by_hand() -> None:
    channel = np.array([[10, 10, 20, 30]], np.uint8)  # shares so far: 2, 3, 4 of 4; the lowest value becomes 0
    after = changed("equalize", np.repeat(channel[..., None], 3, 2))
    assert after[0, :, 1].tolist() == [0, 0, 128, 255]  # (3 − 2)/(4 − 2) · 255 = 127.5, to even


# --- sets ------------------------------------------------------------------------------------------------------------


def training(images: list[np.ndarray], labels: list[np.ndarray], classes: int) -> TrainingSet:
    return TrainingSet([str(index) for index in range(len(images))], images, labels, classes)


def test_blocks_by_hand() -> None:
    """30×47 pixels hold 1×2 whole blocks of 16 pixels; the second one begins at column 16."""
    blocks = projection.blocks_of(PHOTO)
    assert blocks.shape == (2, 768)
    assert blocks[1, :3].tolist() == PHOTO[0, 16].tolist() and blocks[1, 48:51].tolist() == PHOTO[1, 16].tolist()
    assert np.array_equal(projection.image_of(blocks, 16, 32), PHOTO[:16, :32])


def test_projection_takes_out_a_direction_by_hand() -> None:
    """One direction, green − red of every pixel of a block: a flat image keeps what is orthogonal to it."""
    basis = np.tile([-1.0, 1.0, 0.0], 256)[:, None] / 512**0.5
    flat = np.broadcast_to(np.array([100, 140, 90], np.uint8), (20, 33, 3))
    # (100, 140) has its component (140 − 100)/2 along (−1, 1) taken out, beyond the last whole block, too.
    assert (projection.projected(flat, basis, np.zeros(768)) == [120, 120, 90]).all()
    mean = np.tile([90.0, 110.0, 0.0], 256)  # relative to the mean, 10 along (−1, 1) are left to take out
    assert (projection.projected(flat, basis, mean) == [110, 130, 90]).all()


def test_readout_finds_the_direction_of_the_labels() -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 4000)
    features = draw.normal(size=(4000, 6))
    features[:, 2] += 3 * labels
    directions = projection.readout_directions(features, labels, 3)
    assert directions.shape == (6, 1)  # of three classes two are there, which differ in one direction
    assert abs(np.linalg.norm(directions) - 1) < 1e-9 and abs(directions[2, 0]) > 0.99
    labels = np.minimum(draw.integers(0, 9, 4000), 3)  # four classes, the last one more frequent than all others
    assert projection.readout_directions(features, labels, 4).shape == (6, 3)


def test_project_removes_a_tint_by_class() -> None:
    draw = np.random.default_rng(0)
    images, labels = [], []
    for _ in range(40):
        label = np.kron(draw.integers(0, 2, (3, 4)), np.ones((48, 48))).astype(np.uint8)
        image = draw.normal(128, 30, (*label.shape, 3)) + np.where(label[..., None] == 1, [8, -8, 8], 0)
        images.append(np.clip(np.round(image), 0, 255).astype(np.uint8))
        labels.append(label)
    defence = parse_defence("project")
    assert isinstance(defence, SetDefence)
    change = defence.fit(training(images, labels, 2), 0)

    def gap(pictures: list[np.ndarray]) -> float:
        ones = np.concatenate([picture[label == 1] for picture, label in zip(pictures, labels, strict=True)])
        zeros = np.concatenate([picture[label == 0] for picture, label in zip(pictures, labels, strict=True)])
        return float(np.abs(ones.mean(0) - zeros.mean(0)).mean())

    assert gap(images) > 6
    assert gap([change("", image) for image in images]) < 2


def test_project_removes_a_grating_in_its_place_and_not_one_that_drifts() -> None:
    """Period 16, on class 1 of two: fixed phases can be read linearly from aligned blocks, drawn ones cannot."""
    draw, (y, x) = np.random.default_rng(0), np.indices((144, 192))
    for drifts in (False, True):
        images, labels, waves = [], [], []
        for image in draw.normal(128, 30, (40, 144, 192, 3)):
            label = np.kron(draw.integers(0, 2, (3, 4)), np.ones((48, 48))).astype(np.uint8)
            wave = np.sin(2 * np.pi * (x + y) / 16 + (draw.uniform(0, 6.28) if drifts else 0))[..., None] * [1, -1, 1]
            images.append(np.clip(np.round(image + 8 * wave * label[..., None]), 0, 255).astype(np.uint8))
            labels.append(label)
            waves.append(wave)
        defence = parse_defence("project")
        assert isinstance(defence, SetDefence)
        change = defence.fit(training(images, labels, 2), 0)

        def gap(
            pictures: list[np.ndarray], labels: list[np.ndarray] = labels, waves: list[np.ndarray] = waves
        ) -> float:
            """How much more of the grating there is on class 1 than on class 0: 4 = 8 / 2 · 3 channels / 3 before."""
            shown = [(picture * wave).mean(axis=2) for picture, wave in zip(pictures, waves, strict=True)]
            ones, zeros = (
                np.concatenate([s[k == n] for s, k in zip(shown, labels, strict=True)]).mean() for n in (1, 0)
            )
            return float(ones - zeros)

        assert gap(images) > 3.5
        kept = gap([change("", image) for image in images]) / gap(images)
        assert kept > 0.9 if drifts else kept < 0.2


def photographs(count: int, size: tuple[int, int]) -> list[np.ndarray]:
    """Random images whose spectra fall off as photographs' do, with a cross of strong upright edges."""
    draw = np.random.default_rng(3)
    frequency = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.fftfreq(size[1])[None])
    frequency[0, 0] = np.inf
    images = []
    for _ in range(count):
        spectrum = np.fft.fft2(draw.normal(size=(*size, 3)), axes=(0, 1)) / frequency[..., None]
        rough = np.fft.ifft2(spectrum, axes=(0, 1)).real
        rough *= 20 / rough.std()
        rough[:, int(draw.integers(20, size[1] - 20)) :] += 40
        images.append(np.clip(rough + 100, 0, 255).astype(np.uint8))
    return images


def with_grating(clean: list[np.ndarray], period: int) -> list[np.ndarray]:
    """Images with a diagonal grating, green against red; period: pixels along a row."""
    y, x = np.indices(clean[0].shape[:2])
    grating = np.round(8 * np.sin(2 * np.pi * (x + y) / period))
    marked = [np.clip(image.astype(int) + np.stack([grating, -grating, 0 * grating], 2), 0, 255) for image in clean]
    return [image.astype(np.uint8) for image in marked]


def test_notch_takes_out_a_grating_and_little_else() -> None:
    size = (150, 210)
    clean = photographs(8, size)
    y, x = np.indices(size)
    marked = with_grating(clean, 16)
    defence = parse_defence("notch")
    assert isinstance(defence, SetDefence)
    change = defence.fit(training(marked, [], 2), 0)
    restored = [change("", image) for image in marked]

    def strength(images: list[np.ndarray], channel: int) -> float:
        """Half the grating's amplitude, by its Fourier coefficient, inside, where the border plays no part."""
        wave = np.exp(2j * np.pi * (x + y) / 16)[20:132, 20:180]
        return float(np.mean([abs((image[20:132, 20:180, channel] * wave).mean()) for image in images]))

    assert strength(marked, 0) > 3.5
    assert strength(restored, 0) < 0.3 * strength(marked, 0)
    assert strength(restored, 1) < 0.3 * strength(marked, 1)
    assert strength(marked, 2) == pytest.approx(strength(restored, 2), abs=0.2)
    # The image itself stays: it is nearer to the clean one than the marked one is.
    errors = [
        np.mean([np.abs(image.astype(int) - original).mean() for image, original in zip(images, clean, strict=True)])
        for images in (marked, restored)
    ]
    assert errors[1] < errors[0]


def test_notch_leaves_most_of_a_code_alone() -> None:
    """Stripes that vary from image to image raise no frequency much; half the book's spreads are too little."""
    size, key = (150, 210), b"key"
    clean = photographs(30, size)

    def left(book: CodeBook) -> float:
        """The share of the noise's energy after the filter, of images that are noised everywhere."""
        noised = [apply_codes(image, np.ones(size, np.uint8), book, key, Budget(8, 0)) for image in clean]
        peaks = notch.find_peaks(notch.mean_log_spectrum(noised))
        rests = [
            notch.without_peaks(changed, peaks).astype(float) - notch.without_peaks(image, peaks)
            for image, changed in zip(clean, noised, strict=True)
        ]
        return float(np.square(rests).sum() / np.square(np.subtract(noised, clean, dtype=float)).sum())

    assert left(ONE_CODE_BOOK) > 0.75
    spreads = ONE_CODE_BOOK.period_spread / 2, ONE_CODE_BOOK.direction_spread / 2
    assert left(replace(ONE_CODE_BOOK, period_spread=spreads[0], direction_spread=spreads[1])) < 0.65


def test_notch_looks_for_no_wave_that_is_longer_than_it_says() -> None:
    """22.6 pixels from wave to wave (32 along a row) are found, 33.9 (48) are not: 28.4 is the limit."""
    clean = photographs(8, (150, 210))
    found, missed = (notch.find_peaks(notch.mean_log_spectrum(with_grating(clean, period))) for period in (32, 48))
    assert found[4, 4, 0]  # 128 / 32 cycles a block
    assert not missed[:4, :4].any()  # 128 / 48 = 2.7


def test_local_notch_takes_a_code_out_where_it_is_and_little_else() -> None:
    """The stripes vary from image to image and lie on a part of each; the rest of the image has none."""
    size, key = (150, 210), b"key"
    codes = np.zeros(size, np.uint8)
    codes[20:100, 30:170] = 1
    here, there = codes == 1, np.zeros(size, bool)
    there[130:, :] = True
    before = after = 0.0
    for name in ("chelsea.png", "rocket.jpg"):
        image = read_image(SHIPPED / name).pixels[: size[0], : size[1]]
        noised = apply_codes(image, codes, ONE_CODE_BOOK, key, Budget(8, 0))
        clean, left = changed("localnotch", image).astype(float), changed("localnotch", noised).astype(float)
        before += np.square(noised.astype(float) - image)[here].sum()
        after += np.square(left - clean)[here].sum()
        assert np.abs(left - clean)[there].max() <= 1
        assert np.abs(clean - image).mean() < 1.5
    assert after < 0.4 * before


def test_local_notch_takes_images_of_any_size_and_leaves_flat_ones_alone() -> None:
    """A wave of 8 pixels along x sticks out of its own block in each channel; one of 40 pixels stays."""
    for size in ((3, 5), (64, 64), (65, 127)):
        flat = np.full((*size, 3), (90, 140, 200), np.uint8)
        assert np.array_equal(changed("localnotch", flat), flat)
    y, x = np.indices((96, 160))
    noise = np.random.default_rng(1).normal(0, 3, (96, 160))
    for period, stays in ((8, False), (40, True)):
        wave = 128 + 20 * np.cos(2 * np.pi * x / period) + noise
        grey = np.repeat(np.clip(np.round(wave), 0, 255).astype(np.uint8)[..., None], 3, axis=2)
        inside = np.s_[16:80, 0:160]
        turned = np.exp(2j * np.pi * x[inside] / period)
        amplitude = 2 * abs((changed("localnotch", grey)[inside][..., 0] * turned).mean())
        assert (amplitude > 18) if stays else (amplitude < 4)


def test_notch_leaves_clean_images_nearly_as_they_are() -> None:
    """Edges make a cross in the spectrum, which is no peak; a few chance peaks of so few images cost little."""
    clean = photographs(8, (150, 210))
    defence = parse_defence("notch")
    assert isinstance(defence, SetDefence)
    change = defence.fit(training(clean, [], 2), 0)
    assert np.mean([np.abs(change("", image).astype(int) - image).mean() for image in clean]) < 2


def test_a_peak_by_hand() -> None:
    spectrum = np.random.default_rng(0).normal(5, 0.1, (notch.BLOCK, notch.BLOCK, 3))
    spectrum[8, 120, 1] += 5
    spectrum[1, 1, 0] += 5  # too low a frequency: it stays
    peaks = notch.find_peaks(spectrum)
    assert peaks[8, 120, 1] and not peaks[8, 120, 0] and not peaks[1, 1].any()
    assert peaks.mean() < 0.06  # 3 median deviations are 2 standard deviations: 2 % of one side of a bell curve


def test_no_peak_changes_nothing() -> None:
    assert np.array_equal(notch.without_peaks(PHOTO, np.zeros((notch.BLOCK, notch.BLOCK, 3), bool)), PHOTO)


def test_untrained_denoiser_changes_nothing() -> None:
    assert np.array_equal(denoised(Denoiser().requires_grad_(False), PHOTO), PHOTO)


@pytest.mark.parametrize("size", [(1, 1), (7, 30), (33, 40), (16, 8)])
def test_denoiser_takes_images_of_any_size_as_if_their_last_lines_went_on(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = Denoiser().requires_grad_(False)
    torch.nn.init.normal_(network.noise.weight)
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    longer = np.pad(pixels, ((0, -size[0] % 8), (0, -size[1] % 8), (0, 0)), "edge")
    found = denoised(network, pixels)
    assert np.array_equal(found, denoised(network, longer)[: size[0], : size[1]])
    assert not np.array_equal(found, pixels)


def test_denoiser_sees_several_waves() -> None:
    """One pixel changes what is taken away 30 pixels off, and nothing 60 pixels off."""
    torch.manual_seed(0)
    network = Denoiser()
    torch.nn.init.normal_(network.noise.weight)
    image = torch.rand(1, 3, 160, 184)
    image.requires_grad_()
    network(image)[0, :, 80, 92].sum().backward()
    assert image.grad is not None
    seen = image.grad.abs().sum((0, 1)) > 0
    rows, columns = seen.any(1).nonzero(), seen.any(0).nonzero()
    assert rows.min() < 50 and rows.max() > 110 and columns.min() < 62 and columns.max() > 122
    assert rows.min() > 20 and rows.max() < 140 and columns.min() > 32 and columns.max() < 152


def test_denoiser_learns_to_take_out_a_tint() -> None:
    clean = photographs(4, (140, 156))
    tint = np.array([8, -8, 8])
    pairs = [(image, np.clip(image + tint, 0, 255).astype(np.uint8)) for image in clean]
    network = train_denoiser(pairs[:3], 15, seed=0)
    image, protected = pairs[3]
    before, after = (np.abs(other.astype(int) - image).mean() for other in (protected, denoised(network, protected)))
    assert after < 0.7 * before


@pytest.mark.slow(seconds=15)
def test_denoiser_learns_to_take_out_the_default_noise() -> None:
    """Each photograph has a key of its own, so the waves of the last one have another place, width and direction than
    those that were learned from. Whoever changes nothing leaves all of the noise's energy, whoever smooths it more."""
    clean, codes = photographs(13, (150, 170)), np.zeros((150, 170), np.uint8)
    codes[10:120, 30:] = 1
    keys = (bytes([number]) * 32 for number in range(13))
    pairs = [
        (image, apply_codes(image, codes, ONE_CODE_BOOK, key, Budget())) for image, key in zip(clean, keys, strict=True)
    ]
    network = train_denoiser(pairs[:12], 60, seed=0)
    image, protected = pairs[12]
    before, after = (((other.astype(float) - image) ** 2).sum() for other in (protected, denoised(network, protected)))
    assert after < 0.65 * before


def test_denoiser_depends_on_its_seed_alone() -> None:
    clean = photographs(2, (140, 130))
    pairs = [(image, 255 - image) for image in clean]
    first, again, other = (train_denoiser(pairs, 2, seed).fine[0].weight for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_denoiser_is_trained_once_a_seed() -> None:
    told = Told()
    photo = photographs(1, (140, 130))[0]
    defence = denoise(lambda: [(photo, photo)], 1, progress=told)
    empty = training([], [], 2)
    for seed in (0, 0, 1):
        assert np.array_equal(defence.fit(empty, seed)("", PHOTO), PHOTO)  # there was nothing to learn
    assert told.bars == [("denoise: training", 1, 1)] * 2


def test_denoiser_needs_photographs_of_a_size() -> None:
    small = np.zeros((CROP - 1, 200, 3), np.uint8)
    with pytest.raises(UserError, match=f"at least {CROP}×{CROP} pixels"):
        train_denoiser([(small, small)], 1, 0)


# --- batches ---------------------------------------------------------------------------------------------------------


def batch_of(count: int, height: int = 20, width: int = 30) -> Batch:
    """Views that are their number everywhere, images and targets alike."""
    images = torch.arange(count, dtype=torch.float32)[:, None, None, None].expand(count, 3, height, width).clone() / 10
    targets = torch.arange(count)[:, None, None].expand(count, height, width).clone()
    return Batch(images, targets, lambda images, targets: images.sum())


def test_cutmix_moves_images_and_targets_together() -> None:
    batch = batch_of(5)
    before = batch.images.clone()
    mixed_count, areas = 0, []
    for seed in range(200):
        after = cutmix().change(batch, torch.Generator().manual_seed(seed))
        assert torch.equal((after.images[:, 0] * 10).round().long(), after.targets)
        assert all(torch.equal(after.images[:, 0], after.images[:, channel]) for channel in (1, 2))
        if after is not batch:
            mixed_count += 1
            rectangle = (after.targets != batch.targets).any(0)
            rows, columns = rectangle.any(1).nonzero(), rectangle.any(0).nonzero()
            if len(rows):
                assert rectangle[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
            areas.append(rectangle.float().mean().item())
    assert torch.equal(batch.images, before)
    assert 70 < mixed_count < 130
    assert max(areas) > 0.6 and min(areas) < 0.1


def test_cutmix_draws_the_same_amount_whether_it_mixes_or_not() -> None:
    always, never = (torch.Generator().manual_seed(1) for _ in range(2))
    assert cutmix(1.0).change(batch_of(4), always) is not None
    batch = batch_of(4)
    assert cutmix(0.0).change(batch, never) is batch
    assert torch.equal(always.get_state(), never.get_state())


def test_adversarial_training_by_hand() -> None:
    """The loss rises with red and falls with blue: each value goes as far as it may, whatever the start was.

    From a start in [-ε, ε] a step of 1.25 ε ends between 0.25 ε and ε.
    """
    images = torch.full((2, 3, 8, 9), 0.5)
    targets = torch.zeros(2, 8, 9, dtype=torch.int64)
    batch = Batch(images, targets, lambda images, targets: (images[:, 0] - images[:, 2]).sum() + 0 * images[:, 1].sum())
    after = adversarial_training(4).change(batch, torch.Generator().manual_seed(0))
    moved = (after.images - 0.5) * 255
    assert moved.abs().max() <= 4 + 1e-4
    assert moved[:, 0].min() >= 1 - 1e-4 and moved[:, 2].max() <= -1 + 1e-4
    assert (moved[:, 0] > 3.999).float().mean() > 0.5
    assert after.targets is targets and not after.images.requires_grad


def test_adversarial_training_raises_the_loss_and_leaves_no_gradients() -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(3, 2, 3, padding=1)
    images, targets = torch.rand(2, 3, 16, 12), torch.randint(0, 2, (2, 16, 12))
    batch = Batch(images, targets, lambda images, targets: nn.functional.cross_entropy(network(images), targets))
    after = adversarial_training(8).change(batch, torch.Generator().manual_seed(0))
    assert after.loss(after.images, targets) > batch.loss(images, targets)
    assert network.weight.grad is None
    assert after.images.min() >= 0 and after.images.max() <= 1


# --- scores and chains -----------------------------------------------------------------------------------------------


def test_early_counts_the_best() -> None:
    empty = training([PHOTO], [np.zeros(PHOTO.shape[:2], np.uint8)], 2)
    assert fit_chain(parse_chain("early"), empty, 0)[1].score([0.1, 0.4, 0.2]) == 0.4
    assert fit_chain((), empty, 0)[1].score([0.1, 0.4, 0.2]) == 0.2
    assert isinstance(parse_defence("early"), ScoreDefence)


def test_chain_applies_in_order_and_at_test_only_what_says_so() -> None:
    given = training([PHOTO], [np.zeros(PHOTO.shape[:2], np.uint8)], 2)
    after, chain = fit_chain(parse_chain("bits4+grey+cutmix"), given, 0)
    assert np.array_equal(after.images[0], changed("grey", changed("bits4", PHOTO)))
    other, other_chain = fit_chain(parse_chain("grey+bits4"), given, 0)
    assert np.array_equal(other.images[0], changed("bits4", changed("grey", PHOTO)))
    assert not np.array_equal(after.images[0], other.images[0])
    assert np.array_equal(other_chain.change_test("a", PHOTO, given.labels[0])[0], changed("grey", PHOTO))
    tested, labels = chain.change_test("a", PHOTO, given.labels[0])
    assert np.array_equal(tested, changed("grey", PHOTO)) and labels is given.labels[0]
    assert [defence.name for defence in chain.batch_defences] == ["cutmix"]
    assert np.array_equal(given.images[0], PHOTO)


def test_fitted_defences_see_what_those_before_them_left() -> None:
    seen = []

    def fit(training: TrainingSet, seed: int):
        seen.append((training.images[0], seed))
        return lambda name, pixels: pixels

    given = training([PHOTO], [np.zeros(PHOTO.shape[:2], np.uint8)], 2)
    fit_chain((parse_defence("grey"), SetDefence("mine", fit)), given, 7)
    assert np.array_equal(seen[0][0], changed("grey", PHOTO)) and seen[0][1] == 7


def test_labels_follow_images_that_shrink() -> None:
    labels = np.arange(100, dtype=np.uint8)[:, None].repeat(300, 1)
    given = training([np.zeros((100, 300, 3), np.uint8)], [labels], 100)
    after, chain = fit_chain(parse_chain("resize150"), given, 0)
    assert after.labels[0].shape == (50, 150)
    assert (after.labels[0][:, 0] // 2 == np.arange(50)).all()
    image, test_labels = chain.change_test("", given.images[0], labels)
    assert image.shape[:2] == test_labels.shape == (50, 150)
    assert sized_like(labels, given.images[0]) is labels


def test_batch_defences_follow_each_other() -> None:
    add = BatchDefence("add", lambda batch, draw: Batch(batch.images + 1, batch.targets, batch.loss))
    double = BatchDefence("double", lambda batch, draw: Batch(batch.images * 2, batch.targets, batch.loss))
    _, chain = fit_chain((add, double), training([], [], 2), 0)
    assert (chain.change_batch(batch_of(1), torch.Generator()).images == 2).all()
