"""Images as Python programs hold them: every kind comes back as it was given, and what is no image is refused."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from tests.support.fake_generator import FakeGenerator
from unseg.errors import UserError
from unseg.method.config import Budget
from unseg.protecting.given_images import read_given, read_mask
from unseg.protecting.network_protector import NetworkProtector
from unseg.storage.image_decoding import NAME_OF_MODE

HEIGHT, WIDTH = 40, 70
MASK = np.zeros((HEIGHT, WIDTH), bool)
MASK[5:20, 30:66] = True


@pytest.fixture(scope="module")
def protector() -> NetworkProtector:
    return NetworkProtector(FakeGenerator(), Budget(8, 2), device="cpu")


def colours(channels: int = 3, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (HEIGHT, WIDTH, channels), dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", ["plane", "grey", "colour"])
def test_an_array_comes_back_like_it_was(protector: NetworkProtector, kind: str, dtype: type) -> None:
    image = {"plane": colours(1, dtype)[..., 0], "grey": colours(1, dtype), "colour": colours(3, dtype)}[kind]
    before = image.copy()
    protected = protector(image, MASK)
    assert (protected.shape, protected.dtype) == (image.shape, image.dtype) and np.array_equal(image, before)
    change = np.abs(protected.astype(int) - image).reshape(HEIGHT, WIDTH, -1).max(axis=2)
    level = 1 if dtype == np.uint8 else 257
    most_inside, most_outside = change[MASK].max() / level, change[~MASK].max() / level
    assert 2 < most_inside <= 8 and 0 < most_outside <= 2  # grey takes the luminance of the noise, which is less
    assert kind != "colour" or (most_inside, most_outside) == (8, 2)


@pytest.mark.parametrize(
    "view",
    [
        lambda image: image[:, :, ::-1],  # BGR to RGB
        lambda image: image[::-1],
        lambda image: np.asfortranarray(image),
        lambda image: np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape),  # may not be written
    ],
)
def test_an_array_may_lie_in_memory_as_it_likes(protector: NetworkProtector, view: object) -> None:
    image = view(colours())
    plain = np.array(image, order="C")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(protector(image, MASK), protector(plain, MASK))
    assert np.array_equal(image, plain)


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA"])
def test_a_pil_image_comes_back_in_its_mode_with_its_alpha(protector: NetworkProtector, mode: str) -> None:
    image = Image.fromarray(colours(4), "RGBA").convert(mode)
    image.info |= {"icc_profile": b"profile", "exif": b"where it was taken"}
    before = image.copy()
    protected = protector(image, MASK)
    assert (protected.mode, protected.size) == (mode, image.size) and protected.info == {"icc_profile": b"profile"}
    assert image.tobytes() == before.tobytes()
    bands = len(mode.removesuffix("A"))
    values, found = (np.asarray(one).reshape(HEIGHT, WIDTH, -1) for one in (image, protected))
    assert np.array_equal(values[..., bands:], found[..., bands:])
    expected = protector(np.ascontiguousarray(values[..., :bands]), MASK)
    assert np.array_equal(found[..., :bands], expected) and (expected != values[..., :bands]).any()


@pytest.mark.parametrize(
    ("mode", "remedy"),
    [
        ("HSV", 'image.convert("RGB")'),
        ("LAB", 'image.convert("RGB")'),
        ("I", "a numpy array, H×W"),
        ("F", "a numpy array, H×W"),
    ],
)
def test_another_mode_is_refused_by_name_with_the_remedy(protector: NetworkProtector, mode: str, remedy: str) -> None:
    with pytest.raises(UserError) as caught:
        protector(Image.new(mode, (WIDTH, HEIGHT)))
    assert f"PIL images of mode {mode} are not protected; give {remedy}" in str(caught.value)


@pytest.mark.parametrize(
    ("mode", "kept"),
    [
        ("1", "L"),
        ("P", "RGB"),
        ("PA", "RGBA"),
        ("RGBa", "RGBA"),
        ("La", "LA"),
        ("CMYK", "RGB"),
        ("YCbCr", "RGB"),
        ("RGBX", "RGB"),
    ],
)
def test_a_mode_that_cannot_hold_noise_becomes_one_that_can(protector: NetworkProtector, mode: str, kept: str) -> None:
    image = Image.fromarray(colours(4), "RGBA").convert({"La": "LA", "PA": "P"}.get(mode, kept)).convert(mode)
    image.info |= {"icc_profile": bytes(16) + b"CMYK"}
    protected = protector(image, MASK)
    assert protected.mode == kept and "icc_profile" not in protected.info
    expected = protector(image.convert(kept), MASK)
    assert protected.tobytes() == expected.tobytes() != image.convert(kept).tobytes()
    assert read_given(image).note.endswith(f" to {NAME_OF_MODE.get(kept, kept)}")


def test_a_transparent_index_of_a_palette_stays_transparent(protector: NetworkProtector) -> None:
    image = Image.fromarray(colours()).quantize(5)
    image.info["transparency"] = 2
    protected = protector(image, MASK)
    alpha = np.asarray(image.convert("RGBA"))[..., 3]
    assert protected.mode == "RGBA" and np.array_equal(np.asarray(protected)[..., 3], alpha) and alpha.min() == 0


def test_a_grey_pil_image_of_16_bits_stays_one(protector: NetworkProtector) -> None:
    values = colours(1, np.uint16)[..., 0]
    protected = protector(Image.fromarray(values), MASK)
    assert protected.mode == "I;16" and np.array_equal(np.asarray(protected), protector(values, MASK))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_fourth_channel_of_an_array_stays_as_it_is(protector: NetworkProtector, dtype: type) -> None:
    image = colours(4, dtype)
    protected = protector(image, MASK)
    assert np.array_equal(protected[..., 3], image[..., 3]) and protected.dtype == dtype
    assert np.array_equal(protected[..., :3], protector(np.ascontiguousarray(image[..., :3]), MASK))


def test_a_transparent_colour_is_refused(protector: NetworkProtector) -> None:
    image = Image.fromarray(colours())
    image.info["transparency"] = (1, 2, 3)
    with pytest.raises(UserError, match=r'marks one colour as transparent; give image.convert\("RGBA"\)'):
        protector(image)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (colours().astype(np.float32), "got 40×70×3 float32"),
        (colours(2), "got 40×70×2 uint8"),
        (colours()[None], "got 1×40×70×3 uint8"),
        (colours()[:0], "got 0×70×3 uint8"),
        (colours().tolist(), "image: list is neither a numpy array nor a PIL image"),
        (Image.new("RGB", (0, 5)), "0×5 pixels hold nothing"),
    ],
)
def test_what_is_no_image_is_refused(protector: NetworkProtector, image: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        protector(image)


@pytest.mark.parametrize(
    "mask",
    [
        MASK,
        MASK.astype(np.uint8) * 255,
        MASK.astype(np.int64),
        MASK.astype(np.float32),
        Image.fromarray(MASK),
        Image.fromarray(MASK.astype(np.uint8) * 255),
    ],
)
def test_every_kind_of_mask_says_the_same(mask: object) -> None:
    found = read_mask(mask, HEIGHT, WIDTH)
    assert np.array_equal(found, MASK) and found.view(np.uint8).max() == 1


def test_a_palette_mask_goes_by_its_colours() -> None:
    """White first, as optimisers sort them; a mask of class colours could be anything."""
    white_first = Image.fromarray((~MASK.astype(bool)).astype(np.uint8), "P")
    white_first.putpalette([255, 255, 255, 0, 0, 0])
    assert np.array_equal(read_mask(white_first, HEIGHT, WIDTH), MASK)
    ids = MASK.astype(np.uint8)
    ids[0, :5] = 2
    classes = Image.fromarray(ids, "P")
    classes.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    with pytest.raises(UserError, match="mask: holds other values than 0 and 255"):
        read_mask(classes, HEIGHT, WIDTH)
    cut_short = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 2, (HEIGHT, WIDTH), np.uint8) * 255).save(cut_short, "PNG")
    with pytest.raises(UserError, match="^mask: cannot be decoded "):
        read_mask(Image.open(io.BytesIO(cut_short.getvalue()[:200])), HEIGHT, WIDTH)


def test_a_mask_of_another_size_or_of_class_ids_is_refused(protector: NetworkProtector) -> None:
    with pytest.raises(UserError, match=r"mask: expected 40×70 \(height × width\) as of the image, got 70×40"):
        protector(colours(), MASK.T)
    for values in (MASK * 3, MASK + np.uint8(1), MASK * 255 - np.where(MASK, 0, 1), np.full(MASK.shape, 0.5)):
        with pytest.raises(UserError, match="mask: holds other values than 0 and 255; give a bool array"):
            protector(colours(), values)
    with pytest.raises(UserError, match="mask and boxes: give one of them"):
        protector(colours(), MASK, [[1, 1, 5, 5]])
    nothing = protector(colours(), np.zeros(MASK.shape, np.uint8))
    assert np.abs(nothing.astype(int) - colours()).max() == 2  # no object: the background's budget everywhere


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([], "give one or more boxes"),
        ([1, 1, 20, 20], "give one or more boxes"),
        ([[1, 1, 20]], "give one or more boxes"),
        ([[1, 1, 20, float("nan")]], "of finite numbers"),
        ([[None]], "give one or more boxes"),
        ("a box", "give one or more boxes"),
        ([[20, 2, 1, 9]], "give the top left corner first"),
        ([[100, 2, 120, 9]], "every box lies outside the image (70×40)"),
    ],
)
def test_what_is_no_box_is_refused(protector: NetworkProtector, boxes: object, message: str) -> None:
    with pytest.raises(UserError) as caught:
        protector(colours(), boxes=boxes)
    assert str(caught.value).startswith("boxes: ") and message in str(caught.value)


@pytest.mark.parametrize(("mask", "kind"), [("mask.png", "str"), (7, "int"), ({"a": 1}, "dict")])
def test_a_mask_is_an_image_and_not_its_path(protector: NetworkProtector, mask: object, kind: str) -> None:
    with pytest.raises(UserError, match=f"^mask: {kind} is neither a numpy array nor a PIL image"):
        protector(colours(), mask)


def test_a_mask_of_texts_and_a_pil_image_cut_short_are_refused(protector: NetworkProtector) -> None:
    with pytest.raises(UserError, match="^mask: holds <U1, not numbers"):
        protector(colours(), np.full((HEIGHT, WIDTH), "a"))
    file = io.BytesIO()
    Image.fromarray(colours()).save(file, "PNG")
    with pytest.raises(UserError, match="^image: cannot be decoded "):
        protector(Image.open(io.BytesIO(file.getvalue()[:2000])), MASK)


def test_several_frames_are_refused(protector: NetworkProtector) -> None:
    file = io.BytesIO()
    frames = [Image.fromarray(colours()), Image.fromarray(255 - colours())]
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    with pytest.raises(UserError, match="^image: holds 2 frames; give one of them"):
        protector(Image.open(file), MASK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"region": "foo"}, "region: 'foo' is none of mask, published"),
        ({"precision": "float16"}, "precision: 'float16' is none of float32, bfloat16"),
        ({"budget": (8, 2)}, r"budget: give Budget\(object, background\), not a tuple"),
    ],
)
def test_choices_that_there_are_not_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        NetworkProtector(FakeGenerator(), device="cpu", **options)
