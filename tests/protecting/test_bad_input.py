"""Every kind of bad input: a message that names the file, the rest of the batch protected, a non-zero exit."""

from __future__ import annotations

import errno
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from tests.support.fake_generator import FakeGenerator, loaded
from unseg.errors import UserError
from unseg.protecting.network_protector import NetworkProtector
from unseg.protecting.run import ProtectSettings, Summary, protect
from unseg.protecting.verification import verify
from unseg.storage import image_decoding
from unseg.storage.image_decoding import read_image
from unseg.storage.weights import LoadedGenerator

SETTINGS = ProtectSettings(device="cpu", workers=2, unmasked="copy")
PHOTO = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two good photographs, before and after whatever is bad."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a_good.png", "z_good.png"):
        Pillow.fromarray(PHOTO).save(folder / name)
    return folder


def run(photos: Path, **options: object) -> Summary:
    options.setdefault("whole_image", not {"masks", "boxes", "annotations"} & options.keys())
    return protect([photos], photos.parent / "out", SETTINGS, generator=options.pop("generator", loaded()), **options)


def test_what_a_format_cannot_hold_is_foreseen(photos: Path) -> None:
    """16 bits and transparency: the header tells."""
    deep = np.random.default_rng(1).integers(0, 2**16, (24, 32), dtype=np.uint16)
    Pillow.fromarray(deep).save(photos / "deep.png")
    Pillow.fromarray(np.dstack([PHOTO, PHOTO[..., 0]])).save(photos / "glass.png")
    failing = {"webp": {"deep.png"}, "jpeg": {"deep.png", "glass.png"}, "tiff": set(), "png": set()}
    for form, names in failing.items():
        told = []
        for dry in (True, False):
            summary = protect([photos], photos.parent / form, whole_image=True, format=form, dry_run=dry)
            assert {entry.input for entry in summary.of("failed")} == names
            told.append([entry.reason for entry in summary.entries])
        assert told[0] == told[1]


def only_failure(photos: Path, summary: Summary) -> str:
    """The reason of the one failure, after a look at everything else."""
    assert summary.exit_code == 1
    good = [entry.input for entry in summary.of("protected")]
    assert {"a_good.png", "z_good.png"} <= set(good)
    assert (photos.parent / "out" / "a_good.png").exists() and (photos.parent / "out" / "z_good.png").exists()
    assert not list((photos.parent / "out").rglob("*.tmp"))
    (failed,) = summary.of("failed")
    assert failed.input == "bad.png" or failed.input == "bad.jpg"
    assert not (photos.parent / "out" / "bad.png").exists()
    return failed.reason


def truncated(path: Path) -> Path:
    Pillow.fromarray(np.tile(PHOTO, (9, 9, 1))).save(path.with_suffix(".jpg"))
    data = path.with_suffix(".jpg").read_bytes()
    path.with_suffix(".jpg").write_bytes(data[: len(data) * 2 // 3])
    return path


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (truncated, "broken image: image file is truncated"),
        (lambda path: path.write_text("not a picture at all"), "not an image of a known format"),
        (lambda path: path.touch(), "the file is empty (0 bytes)"),
        (
            lambda path: Pillow.fromarray(PHOTO[..., 0].astype(np.float32)).save(path, "TIFF"),
            "floating-point values: convert",
        ),
        (
            lambda path: Pillow.fromarray(PHOTO).save(path, save_all=True, append_images=[Pillow.new("RGB", (32, 24))]),
            "several frames or pages: only still images",
        ),
        (lambda path: path.symlink_to("gone"), "cannot be read: No such file"),
    ],
    ids=["truncated", "text", "empty", "float", "animation", "dangling"],
)
def test_a_bad_image_fails_alone(photos: Path, make: Callable[[Path], object], reason: str) -> None:
    make(photos / "bad.png")
    assert reason in only_failure(photos, run(photos))


@pytest.mark.parametrize(
    ("name", "image", "note"),
    [
        ("grey.png", Pillow.fromarray(PHOTO[..., 0].copy()), None),
        ("rgba.png", Pillow.fromarray(np.dstack([PHOTO, PHOTO[..., 0]])), None),
        ("cmyk.jpg", Pillow.fromarray(PHOTO).convert("CMYK"), "CMYK to RGB"),
    ],
    ids=["grey", "rgba", "cmyk"],
)
def test_unusual_images_are_protected(photos: Path, name: str, image: Pillow.Image, note: str | None) -> None:
    image.save(photos / name)
    summary = run(photos)
    assert summary.exit_code == 0 and len(summary.entries) == 3
    assert next(entry.note for entry in summary.entries if entry.input == name) == note
    assert verify(photos.parent / "out").exit_code == 0


def test_an_image_of_one_pixel_is_weak(photos: Path) -> None:
    Pillow.fromarray(PHOTO[:1, :1].copy()).save(photos / "one.png")
    summary = run(photos)
    assert summary.exit_code == 1 and [entry.reason for entry in summary.of("weak")] == [
        "its object has 1 pixel: in an image of this size, networks hardly see noise on fewer than 32"
    ]
    assert verify(photos.parent / "out").failures == []


def test_a_very_long_image_needs_no_square(photos: Path) -> None:
    """Padded to its square, 20,000×20 would take 1.2 GB as bytes and 4.8 GB as floats."""
    Pillow.fromarray(np.tile(PHOTO[:20], (1, 625, 1))).save(photos / "long.png")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert run(photos).exit_code == 0
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * (1 if sys.platform == "darwin" else 1024) < 400e6
    assert read_image(photos.parent / "out" / "long.png").pixels.shape == (20, 20_000, 3)
    assert verify(photos.parent / "out").exit_code == 0


def test_an_image_over_the_limit_is_refused(photos: Path) -> None:
    Pillow.new("RGB", (2000, 1001)).save(photos / "bad.png")
    settings = ProtectSettings(device="cpu", max_megapixels=2)
    summary = protect([photos], photos.parent / "out", settings, generator=loaded(), whole_image=True)
    reason = only_failure(photos, summary)
    assert reason == "2000×1001 is over the limit of 2 megapixels: raise --max-megapixels or make it smaller"


def masks_for(photos: Path, **bad: object) -> Path:
    masks = photos.parent / "masks"
    masks.mkdir()
    for path in photos.iterdir():
        Pillow.new("L", (32, 24), 255).save((masks / path.name).with_suffix(".png"))
    return masks


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: Pillow.new("L", (24, 32), 255).save(path), "mask bad.png is 24×32, the image (upright) is 32×24"),
        (lambda path: path.write_bytes(b"x"), "mask: not an image"),
        (lambda path: Pillow.fromarray(PHOTO).save(path), "mask: colour mask"),
        (lambda path: path.write_bytes(b""), "mask: the file is empty"),
    ],
    ids=["size", "broken", "colour", "empty"],
)
def test_a_bad_mask_fails_its_image_alone(photos: Path, make: Callable[[Path], object], reason: str) -> None:
    Pillow.fromarray(PHOTO).save(photos / "bad.png")
    masks = masks_for(photos)
    make(masks / "bad.png")
    assert reason in only_failure(photos, run(photos, masks=masks))


def test_a_missing_mask_is_told_and_its_image_copied(photos: Path) -> None:
    Pillow.fromarray(PHOTO).save(photos / "bad.bmp")
    masks = masks_for(photos)
    (masks / "bad.png").unlink()
    summary = run(photos, masks=masks)
    assert summary.exit_code == 1 and [(entry.input, entry.reason) for entry in summary.of("copied")] == [
        ("bad.bmp", "no mask for it")
    ]
    assert (photos.parent / "out" / "bad.bmp").read_bytes() == (photos / "bad.bmp").read_bytes()


def test_an_unreadable_folder_is_named(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a failing scandir, since permissions do not stop root."""
    (photos / "locked").mkdir()
    scandir = os.scandir

    def guarded(path: object = ".") -> object:
        if str(path).endswith("locked"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    summary = run(photos)
    assert summary.exit_code == 1 and len(summary.of("protected")) == 2
    assert [(entry.input, entry.reason) for entry in summary.of("failed")] == [
        ("locked", "folder cannot be read: Permission denied")
    ]
    monkeypatch.undo()
    assert run(photos).exit_code == 0  # the folder is looked at anew


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not stop root")
def test_an_unreadable_image_is_named(photos: Path) -> None:
    Pillow.fromarray(PHOTO).save(photos / "bad.png")
    (photos / "bad.png").chmod(0)
    assert "cannot be read: Permission denied" in only_failure(photos, run(photos))


def test_an_output_that_cannot_be_written_fails_alone(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Pillow.fromarray(PHOTO).save(photos / "bad.png")
    replace = os.replace

    def broken(source: object, target: object) -> None:
        if Path(target).name == "bad.png":
            raise OSError(errno.EIO, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", broken)
    assert only_failure(photos, run(photos)) == "cannot be written: Input/output error"


def test_too_little_memory_fails_the_image_that_meets_it(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Pillow.fromarray(PHOTO).save(photos / "bad.png")
    decode = image_decoding.read_image

    def hungry(path: Path, *arguments: object, **options: object) -> image_decoding.Image:
        if path.name == "bad.png":
            raise MemoryError
        return decode(path, *arguments, **options)

    monkeypatch.setattr(image_decoding, "read_image", hungry)
    assert only_failure(photos, run(photos)) == "not enough memory to decode it"


class NotANumber(FakeGenerator):
    def forward(self, batch: torch.Tensor, prompts: object) -> torch.Tensor:
        return super().forward(batch, prompts) * (float("nan") if (batch == 0).all() else 1)


def test_noise_that_is_no_number_protects_nothing(photos: Path) -> None:
    Pillow.new("RGB", (32, 24)).save(photos / "bad.png")
    reason = only_failure(photos, run(photos, generator=LoadedGenerator(NotANumber().eval(), "fake", "fake", "0" * 64)))
    assert reason.startswith("the generator's noise is not finite")


class OutOfMemory(FakeGenerator):
    def forward(self, batch: torch.Tensor, prompts: object) -> torch.Tensor:
        raise torch.OutOfMemoryError


def test_a_device_without_memory_is_a_user_error_with_its_remedy(photos: Path) -> None:
    with pytest.raises(UserError, match="--batch-size 1: the device has not enough memory"):
        run(photos, generator=LoadedGenerator(OutOfMemory().eval(), "fake", "fake", "0" * 64))


def test_names_with_any_byte_survive(photos: Path) -> None:
    name = os.fsdecode(b"br\xffken [bold] \xe2\x82\xac.png")
    try:
        Pillow.fromarray(PHOTO).save(photos / name)
    except OSError:
        pytest.skip("this file system takes text only")
    assert run(photos).exit_code == 0
    assert (photos.parent / "out" / name).exists() and verify(photos.parent / "out").exit_code == 0


def test_a_batch_with_failures_protects_the_rest_alike(photos: Path) -> None:
    """A failure leaves its place in the batch to zeros: nobody else moves."""
    clean = photos.parent / "clean"
    settings = ProtectSettings(device="cpu", batch_size=4)
    protect([photos], clean, settings, generator=loaded(), whole_image=True)
    (photos / "bad.png").touch()
    protect([photos], photos.parent / "out", settings, generator=loaded(), whole_image=True)
    for name in ("a_good.png", "z_good.png"):
        assert (clean / name).read_bytes() == (photos.parent / "out" / name).read_bytes()


def test_a_protector_refuses_a_foreign_array() -> None:
    with pytest.raises(UserError, match="image: expected H×W, .* of uint8 or uint16, got .* float32"):
        NetworkProtector(FakeGenerator())(PHOTO.astype(np.float32))
