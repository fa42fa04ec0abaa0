"""Protector and unseg.protect on arrays, PIL images, bytes and paths: what comes back is what the command writes."""

from __future__ import annotations

import io
import pickle
import re
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

import unseg
from tests.support.fake_generator import loaded
from unseg.errors import UserError
from unseg.protecting.manifest import read_manifest
from unseg.protecting.protector import Protector
from unseg.storage.image_limits import own_size_limit

KEY = bytes(range(32))
HEIGHT, WIDTH = 41, 67
MASK = np.zeros((HEIGHT, WIDTH), bool)
MASK[5:23, 30:61] = True
DRAW = np.random.default_rng(5)


def colours(height: int = HEIGHT, width: int = WIDTH, channels: int = 3) -> np.ndarray:
    return DRAW.integers(20, 230, (height, width, channels), np.uint8)


def file_of(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def png_of(mask: np.ndarray) -> bytes:
    return file_of(Image.fromarray(mask), "PNG")


def turned_jpeg() -> bytes:
    """A photograph that EXIF turns upright, with a colour profile and the place where it was taken."""
    exif = Image.Exif()
    exif[274] = 6
    exif.get_ifd(0x8825)[2] = (52.0, 30.0, 0.0)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return file_of(Image.fromarray(colours(WIDTH, HEIGHT)), "JPEG", quality=95, exif=exif, icc_profile=profile)


FILES = {
    "turned.jpg": turned_jpeg,
    "grey.png": lambda: file_of(Image.fromarray(colours()[..., 0]), "PNG"),
    "alpha.png": lambda: file_of(Image.fromarray(colours(channels=4)), "PNG"),
    "palette.gif": lambda: file_of(Image.fromarray(colours()).quantize(9), "GIF"),
    "deep.png": lambda: file_of(Image.fromarray(colours()[..., 0].astype(np.uint16) * 251), "PNG"),
    "cmyk.jpg": lambda: file_of(Image.fromarray(colours(channels=4), "CMYK"), "JPEG"),
}


def by_command(tmp_path: Path, name: str, data: bytes, **options: Any) -> bytes:
    """What a run writes for one image with that mask."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / name).write_bytes(data)
    (tmp_path / "mask.png").write_bytes(png_of(np.rot90(MASK, 3) if "stored" in options.values() else MASK))
    summary = unseg.protect_folder(tmp_path / "photos" / name, tmp_path / "out", mask=tmp_path / "mask.png", **options)
    assert summary.exit_code == 0, summary.entries
    return (tmp_path / "out" / summary.entries[0].output).read_bytes()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["codes", "network"])
def test_bytes_become_the_bytes_that_the_command_writes(tmp_path: Path, name: str, kind: str) -> None:
    data = FILES[name]()
    options = {"key": KEY, "epsilon": 5.0} if kind == "codes" else {"generator": loaded(), "epsilon": 5.0}
    expected = by_command(tmp_path, name, data, **options)
    given = [data, bytearray(data), memoryview(data)]
    for one in given:
        assert unseg.protect(one, MASK, **options) == expected
    for mask in (png_of(MASK), tmp_path / "mask.png", str(tmp_path / "mask.png"), Image.fromarray(MASK)):
        assert unseg.protect(data, mask=mask, **options) == expected
    if name not in ("deep.png",):
        made = unseg.protect(tmp_path / "photos" / name, MASK, **options)
        stored = Image.open(io.BytesIO(expected))
        assert isinstance(made, Image.Image) and made.mode == stored.mode and made.tobytes() == stored.tobytes()
        assert made.info.get("icc_profile") == stored.info.get("icc_profile")


@pytest.mark.parametrize(
    "options",
    [
        {"format": "webp"},
        {"format": "tiff", "png_level": 9},
        {"format": "jpeg"},
        {"metadata": "keep"},
        {"metadata": "none", "strength": "strong"},
        {"strength": "subtle", "survive_grey": True, "mask_by_contrast": True},
        {"mask_frame": "upright", "mask_type": "binary"},
    ],
    ids=str,
)
def test_options_have_the_commands_names_and_meaning(tmp_path: Path, options: dict[str, Any]) -> None:
    data = turned_jpeg()
    expected = by_command(tmp_path, "a.jpg", data, key=KEY, **options)
    assert unseg.protect(data, tmp_path / "mask.png", key=KEY, **options) == expected
    entry = next(iter(read_manifest(tmp_path / "out").entries.values()))
    made = Protector(key=KEY, **options).result(data, MASK)
    for name in ("status", "psnr", "over_budget", "max_over"):
        assert getattr(made.effect, name) == getattr(entry, name)
    assert made.note == entry.note


def test_a_mask_that_lies_like_the_stored_pixels(tmp_path: Path) -> None:
    data = turned_jpeg()
    expected = by_command(tmp_path, "a.jpg", data, key=KEY, mask_frame="stored")
    assert unseg.protect(data, tmp_path / "mask.png", key=KEY, mask_frame="stored") == expected
    with pytest.raises(UserError, match="make them one size, or give --mask-frame stored"):
        unseg.protect(data, tmp_path / "mask.png", key=KEY)


def test_arrays_and_pil_images_have_the_pixels_of_the_file(tmp_path: Path) -> None:
    image = Image.fromarray(colours(channels=4))
    written = by_command(tmp_path, "a.png", file_of(image, "PNG"), key=KEY)
    expected = np.asarray(Image.open(io.BytesIO(written)))
    assert np.array_equal(np.asarray(unseg.protect(image, MASK, key=KEY)), expected)
    assert np.array_equal(unseg.protect(np.asarray(image), MASK, key=KEY), expected)


def test_the_shipped_network_makes_the_same_by_every_way(tmp_path: Path) -> None:
    data = file_of(Image.fromarray(colours(90, 131)), "PNG")
    mask = np.zeros((90, 131), bool)
    mask[10:60, 70:120] = True
    (tmp_path / "a.png").write_bytes(data)
    (tmp_path / "m.png").write_bytes(png_of(mask))
    unseg.protect_folder(tmp_path / "a.png", tmp_path / "out", mask=tmp_path / "m.png", noise="compact")
    expected = (tmp_path / "out" / "a.png").read_bytes()
    protector = Protector("compact")
    assert unseg.protect(data, mask, noise="compact") == expected == protector(data, mask)
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: protector(data, mask), range(8))) == {expected}


def test_tints_have_the_codes_that_are_given(tmp_path: Path) -> None:
    classes = np.where(MASK, np.uint8(7), np.uint8(2))
    image = colours()
    (tmp_path / "photos").mkdir()
    Image.fromarray(image).save(tmp_path / "photos" / "a.png")
    Image.fromarray(classes).save(tmp_path / "m.png")
    unseg.protect_folder(tmp_path / "photos" / "a.png", tmp_path / "out", mask=tmp_path / "m.png", noise="tint")
    codes = {int(label): code for label, code in read_manifest(tmp_path / "out").header["settings"]["codes"].items()}
    made = Protector(noise="tint", codes=codes)(image, classes=classes)
    assert np.array_equal(made, np.asarray(Image.open(tmp_path / "out" / "a.png")))
    with pytest.raises(UserError, match="tells classes apart; give classes"):
        Protector(noise="tint", codes=codes)(image, MASK)
    with pytest.raises(UserError, match="noise 'tint': needs codes="):
        Protector(noise="tint")


# --- what is not protected


def test_what_is_weak_warns_and_the_result_says_why() -> None:
    protector = Protector(key=KEY, budget=unseg.Budget(0.0, 0.0))
    image = colours()
    with pytest.warns(unseg.WeakProtection, match="weak, not protected: its object did not change") as caught:
        assert np.array_equal(protector(image, MASK), image)
    assert caught[0].filename == __file__
    made = protector.result(colours(), MASK)
    assert (made.effect.status, made.is_protected, made.effect.psnr) == ("weak", False, None)
    with pytest.warns(unseg.WeakProtection, match="weak") as caught:
        unseg.protect(colours(), MASK, key=KEY, epsilon=0)
    assert caught[0].filename == __file__


def test_noise_that_is_all_over_warns() -> None:
    protector = Protector(key=KEY)
    with pytest.warns(unseg.WeakProtection, match="its noise is all over") as caught:
        protector(colours(), np.ones_like(MASK))
    assert caught[0].filename == __file__
    assert protector.result(colours(), whole_image=True).all_over and not protector.result(colours(), MASK).all_over
    with pytest.warns(unseg.WeakProtection, match="its noise is all over"):
        unseg.protect(colours(), whole_image=True, key=KEY)
    with pytest.raises(UserError, match="workers 0: give 1 or more"):
        list(protector.many([colours()], [MASK], workers=0))


def test_what_has_no_code_warns() -> None:
    protector = Protector(key=KEY, codes={3: 0, 4: 1})
    with pytest.warns(unseg.WeakProtection, match="uncoded, not protected: every pixel is of a class without noise"):
        protector(colours(), classes=np.full((HEIGHT, WIDTH), 3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        protector(colours(), classes=np.where(MASK, 4, 3))
        assert protector.result(colours(), classes=np.full((HEIGHT, WIDTH), 3)).effect.status == "uncoded"


def test_a_background_that_changes_does_not_make_up_for_the_object() -> None:
    """A network moves the background by 2 levels; the object has no budget, and is weak."""
    protector = Protector(loaded(), unseg.Budget(0, 2))
    assert protector.result(colours(), MASK).effect.status == "weak"


def test_the_quality_is_told_when_asked_for() -> None:
    effect = Protector(key=KEY, quality=True).result(colours(), MASK).effect
    assert effect.delta_e > effect.s_cielab > 0 and 0 < effect.ssim < 1 and effect.psnr > 30
    assert Protector(key=KEY).result(colours(), MASK).effect.delta_e is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mask": np.zeros((HEIGHT, WIDTH), bool)}, "mask: no object in it"),
        ({}, "what is the object.*noise that is alike everywhere marks none of them"),
        ({"mask": b"no picture"}, "mask: not an image of a known format"),
        ({"mask": "nowhere.png"}, "nowhere.png: cannot be read: No such file"),
        ({"mask": png_of(np.ones((9, 9), np.uint8))}, "mask: is 9×9, the image .* is 67×41"),
        ({"mask": png_of(np.where(MASK, np.uint8(7), np.uint8(3)) + MASK[::-1, ::-1])}, "mask: holds class ids"),
    ],
)
def test_what_says_no_object_is_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        unseg.protect(colours(), key=KEY, **given)


def test_class_ids_with_a_background_are_one_object(tmp_path: Path) -> None:
    ids = np.where(MASK, np.uint8(7), np.uint8(0))
    ids[30:38, 4:20] = 4
    made = unseg.protect(colours(), png_of(ids), key=KEY, mask_type="index")
    data = file_of(Image.fromarray(colours()), "PNG")
    assert made.shape == (HEIGHT, WIDTH, 3)
    (tmp_path / "ids.png").write_bytes(png_of(ids))
    assert unseg.protect(data, tmp_path / "ids.png", key=KEY) == unseg.protect(data, ids > 0, key=KEY)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": "loud"}, "--strength loud: choose from subtle, standard, strong"),
        ({"strength": "loud", "epsilon": 3}, "--strength loud: choose from"),
        ({"budget": unseg.Budget(3), "epsilon": 3}, "budget and epsilon: give one of them"),
        ({"epsilon": 300}, "--epsilon 300: give a number of grey levels from 0 to 255"),
        ({"names": "keep"}, "names: is for folders"),
        ({"format": "bmp"}, "--format bmp: choose from png, tiff, webp, jpeg"),
        ({"noise": "sam"}, "--noise sam: name the weight file of a generator"),
        ({"noise": "codes", "generator": "compact"}, "--generator compact: is for noise of a network"),
        ({"noise": "codes", "generator": loaded()}, "noise 'codes': has a generator of its own, or none"),
        ({"survive_grey": True, "noise": "compact"}, "--survive-grey: is for --noise codes"),
    ],
)
def test_options_that_cannot_be_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        unseg.protect(colours(), MASK, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"survive_grey": "no"}, "survive_grey: is 'no', a str; give True or False"),
        ({"mask_by_contrast": 1}, "mask_by_contrast: is '1', an int; give True or False"),
        ({"epsilon": "8"}, "epsilon: is '8', a str; give a number, or None"),
        ({"epsilon": True}, "epsilon: is 'True', a bool; give a number, or None"),
        ({"png_level": 1.5}, "png_level: is '1.5', a float; give a whole number"),
        ({"max_megapixels": None}, "max_megapixels: is 'None', a NoneType; give a number"),
        ({"batch_size": "3"}, "batch_size: is '3', a str; give a whole number, or None"),
        ({"device": 0}, "device: is '0', an int; give a text"),
    ],
)
def test_options_of_another_kind_are_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        unseg.protect(colours(), MASK, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objects": 1}, "objects: is '1', an int; give a text"),
        ({"ignore_label": None}, "ignore_label: is 'None', a NoneType; give a whole number"),
        ({"bands": "1"}, "bands: is '1', a str; give a tuple of numbers, or None"),
        ({"bands": (1, "2")}, "bands: is"),
        ({"processes": "2"}, "processes: is '2', a str; give a whole number"),
        ({"limit": 1.0}, "limit: is '1.0', a float; give a whole number, or None"),
        ({"dry_run": "no"}, "dry_run: is 'no', a str; give True or False"),
        ({"workers": "2"}, "workers: is '2', a str; give a whole number, or None"),
    ],
)
def test_options_of_folders_of_another_kind_are_one_line(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        unseg.protect_folder(tmp_path, tmp_path / "out", whole_image=True, **options)
    assert not (tmp_path / "out").exists()


def test_numbers_of_numpy_are_numbers_and_workers_are_at_least_one(tmp_path: Path) -> None:
    Image.fromarray(colours()).save(tmp_path / "a.png")
    photo = tmp_path / "a.png"
    options = {"epsilon": np.float32(4), "png_level": np.int64(2), "survive_grey": np.bool_(True)}
    assert unseg.protect_folder(photo, tmp_path / "out", whole_image=True, **options).exit_code == 0
    with pytest.raises(UserError, match="^workers -1: give 1 or more"):
        unseg.verify(tmp_path / "out", workers=-1)
    with pytest.raises(UserError, match="^workers: is '2', a str; give a whole number, or None"):
        unseg.verify(tmp_path / "out", workers="2")
    with pytest.raises(UserError, match="^workers -1: give 1 or more"):
        list(unseg.Protector().many([colours()], [MASK], workers=-1))


def test_an_option_that_there_is_not_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="unexpected option 'epsilom'"):
        unseg.protect(colours(), MASK, epsilom=3)
    with pytest.raises(TypeError, match="unexpected option 'epsilom'"):
        unseg.protect_folder("photos", "out", whole_image=True, epsilom=3)


def test_files_that_are_none_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="^image: not an image of a known format"):
        unseg.protect(b"hello", whole_image=True)
    with pytest.raises(UserError, match=r"nowhere\.jpg: cannot be read: No such file"):
        unseg.protect(tmp_path / "nowhere.jpg", whole_image=True)
    with pytest.raises(UserError, match="^image: 67×41 is over the limit of 0.001 megapixels"):
        unseg.protect(png_of(MASK.astype(np.uint8)), whole_image=True, max_megapixels=0.001)
    with pytest.raises(
        UserError, match="^image: a list is none; give a numpy array, a PIL image, a path, or the bytes"
    ):
        unseg.protect([[1, 2], [3, 4]], whole_image=True)
    with pytest.raises(UserError, match="^image: JPEG cannot keep its transparency"):
        unseg.protect(FILES["alpha.png"](), MASK, format="jpeg")
    deep = file_of(Image.fromarray(colours()[..., 0].astype(np.uint16)), "PNG")
    (tmp_path / "deep.png").write_bytes(deep)
    assert unseg.protect(tmp_path / "deep.png", MASK, epsilon=20).mode == "I;16"


# --- several at a time


@pytest.mark.parametrize("options", [{"key": KEY}, {"generator": loaded()}], ids=["codes", "network"])
def test_threads_get_what_one_thread_gets(options: dict[str, Any]) -> None:
    protector = Protector(**options)
    images = [file_of(Image.fromarray(colours(30 + 3 * place, 50 + place)), "PNG") for place in range(6)]
    expected = [Protector(**options)(image, boxes=[[5, 4, 30, 20]]) for image in images]
    barrier = threading.Barrier(4)

    def all_of(offset: int) -> list[bytes]:
        barrier.wait()
        order = [(place + offset) % 6 for place in range(6)]
        made = {place: protector(images[place], boxes=[[5, 4, 30, 20]]) for place in order}
        return [made[place] for place in range(6)]

    with ThreadPoolExecutor(4) as pool:
        for made in pool.map(all_of, range(4)):
            assert made == expected


def test_many_images_flow_through_in_their_order() -> None:
    images, masks = [colours(30, 40 + place) for place in range(9)], []
    for image in images:
        masks.append(np.zeros(image.shape[:2], bool))
        masks[-1][4:20, 7:30] = True
    protector, asked = Protector(key=KEY), []

    def coming() -> Iterator[np.ndarray]:
        for place, image in enumerate(images):
            asked.append(place)
            yield image

    made = protector.many(coming(), masks, workers=1)
    assert asked == []
    first = next(made)
    assert len(asked) <= 4 and np.array_equal(first.image, protector(images[0], masks[0]))
    rest = [one.image for one in made]
    assert all(
        np.array_equal(one, protector(image, mask))
        for one, image, mask in zip(rest, images[1:], masks[1:], strict=True)
    )
    whole = list(protector.many(images[:2], whole_image=True))
    assert np.array_equal(whole[1].image, protector(images[1], whole_image=True))
    labels = [np.where(mask, 7, 0) for mask in masks]
    by_class = Protector(key=KEY, codes={0: 0, 7: 1}).many(images, classes=labels)
    assert np.array_equal(next(by_class).image, protector(images[0], masks[0]))
    by_class.close()


def test_many_images_need_as_many_masks() -> None:
    with pytest.raises(UserError, match="images and mask: are not equally many"):
        list(Protector(key=KEY).many([colours()], [MASK, MASK]))
    with pytest.raises(UserError, match="images and boxes: are not equally many"):
        list(Protector(key=KEY).many([colours(), colours()], boxes=[[[1, 1, 30, 20]]]))


def test_another_process_gets_an_equal_protector() -> None:
    protector = Protector(survive_grey=True, strength="subtle", codes={0: 0, 5: 2})
    copy = pickle.loads(pickle.dumps(protector))
    assert copy.key == protector.key and copy.budget == unseg.Budget(4) and copy.codes == {0: 0, 5: 2}
    image = colours()
    assert np.array_equal(copy(image, MASK), protector(image, MASK))
    named = pickle.loads(pickle.dumps(Protector("compact", epsilon=3)))
    assert named.settings.network == "compact" and named.budget.object == 3


def test_pillows_own_limit_is_back_once_the_last_thread_has_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    first, second = own_size_limit(), own_size_limit()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert Image.MAX_IMAGE_PIXELS is None
    second.__exit__(None, None, None)
    assert Image.MAX_IMAGE_PIXELS == 1000
    unseg.protect(file_of(Image.fromarray(colours()), "PNG"), MASK, key=KEY)  # of more pixels than Pillow allows
    assert Image.MAX_IMAGE_PIXELS == 1000
