"""NIfTI volumes protected and verified: real ones that nibabel ships, and made ones of every type."""

from __future__ import annotations

import gzip
import resource
from dataclasses import replace
from pathlib import Path
from shutil import copyfile

import nibabel
import numpy as np
import pytest

from unseg.protecting.run import ProtectSettings, Summary, protect
from unseg.protecting.verification import verify
from unseg.storage.stacks.stack_kinds import KINDS

SHIPPED = Path(nibabel.__file__).parent / "tests" / "data"
KEY = bytes(range(32))
SETTINGS = ProtectSettings(workers=1)
SHAPE = (14, 18, 5)
AFFINE = np.array([[-2.0, 0, 0.1, 40], [0, 2, 0, -30], [0, 0, 5, 12], [0, 0, 0, 1]])


def _protect(folder: Path) -> Summary:
    return protect(folder / "in", folder / "out", SETTINGS, masks=folder / "masks", key=KEY)


def _ball(shape: tuple[int, ...]) -> np.ndarray:
    """Returns a region that is another one in every slice along every axis."""
    grid = np.meshgrid(*(np.linspace(-1, 1, length) for length in shape), indexing="ij")
    return sum((axis - 0.2 * number) ** 2 for number, axis in enumerate(grid)) < 0.7


def _save(path: Path, image: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("name", ["anatomical.nii", "functional.nii", "example4d.nii.gz", "example_nifti2.nii.gz"])
def test_a_real_volume_changes_in_its_values_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    copyfile(SHIPPED / name, tmp_path / "in" / name)
    before = nibabel.load(tmp_path / "in" / name)
    region = _ball(before.shape[:3])
    mask = nibabel.Nifti1Image(region.astype(np.uint8) * 3, before.affine)
    _save(tmp_path / "masks" / name.replace(".gz", ""), mask)
    (entry,) = _protect(tmp_path).entries
    assert (entry.status, entry.output, entry.kind) == ("protected", name, "NIfTI"), entry.reason
    after = nibabel.load(tmp_path / "out" / name)
    old, new = (np.asarray(image.dataobj.get_unscaled(), np.float64) for image in (before, after))
    low, high = np.percentile(old, (0.1, 99.9)) if before.get_data_dtype() != np.uint8 else (0, 255)
    most = 8 * (high - low) / 255
    change = np.abs(new - old).reshape(*region.shape, -1)
    assert not change[~region].any() and most - 1 < change[region].max() <= most
    assert (np.median(change[region], axis=0) > most - 1).all()  # in every volume of a series
    raw = [
        gzip.decompress(path.read_bytes()) if name.endswith("gz") else path.read_bytes()
        for path in (tmp_path / "in" / name, tmp_path / "out" / name)
    ]
    begin = int(before.header["vox_offset"])
    assert raw[0][:begin] == raw[1][:begin] and len(raw[0]) == len(raw[1])  # the affine and all else of the header
    assert verify(tmp_path / "out").exit_code == 0


@pytest.mark.parametrize("options", [{}, {"mask_by_contrast": True}])
@pytest.mark.parametrize("value", [-(2**63), 2**62, 2**63 - 1])
def test_whole_numbers_beyond_floats_stay_and_hide_nothing(
    tmp_path: Path, value: int, options: dict[str, bool]
) -> None:
    values = np.random.default_rng(4).integers(0, 1000, (60, 50, 6), dtype=np.int64)
    values[20:50:10, 20:24, 2] = value  # few: the range of all values is that of the others
    _save(tmp_path / "in" / "a.nii", nibabel.Nifti1Image(values, AFFINE, dtype=np.int64))
    region = np.zeros(values.shape, np.uint8)
    region[10:50, 5:45] = 1
    _save(tmp_path / "masks" / "a.nii", nibabel.Nifti1Image(region, AFFINE))
    settings = replace(SETTINGS, **options)
    (entry,) = protect(tmp_path / "in", tmp_path / "out", settings, masks=tmp_path / "masks", key=KEY).entries
    assert entry.status == "protected", entry.reason
    after = np.asarray(nibabel.load(tmp_path / "out" / "a.nii").dataobj.get_unscaled())
    beyond = values == value
    assert np.array_equal(after[beyond], values[beyond])
    change = np.abs(np.where(beyond, 0, after) - np.where(beyond, 0, values))
    low, high = entry.value_ranges[0]
    assert change.max() <= 8 * (high - low) / 255 and not change[region == 0].any()
    assert (change[(region > 0) & ~beyond] > 0).mean() > 0.95
    assert verify(tmp_path / "out").exit_code == 0


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u1", "i2", "u2", "i4", "f4", "f8"])
def test_every_type_and_byte_order(tmp_path: Path, kind: str, order: str) -> None:
    values = (np.arange(np.prod(SHAPE)).reshape(SHAPE) * 7 % 200 + 20).astype(f"{order}{kind}")
    if kind[0] == "f":
        values[2, 3] = np.nan
    header = nibabel.Nifti1Header(endianness=order)
    header.set_dim_info(slice=1)
    image = nibabel.Nifti1Image(values, AFFINE, header)
    image.header.set_data_dtype(values.dtype)
    image.header.set_slope_inter(0.5, -3)
    _save(tmp_path / "in" / "a.nii", image)
    region = _ball(SHAPE)
    region[2:12, 7, 1:] = True
    _save(tmp_path / "masks" / "a.nii.gz", nibabel.Nifti1Image(region.astype(np.int16), AFFINE))
    (entry,) = _protect(tmp_path).entries
    assert entry.status == "protected" and (entry.planes, entry.height, entry.width) == (18, 14, 5), entry.reason
    before, after = (nibabel.load(tmp_path / place / "a.nii") for place in ("in", "out"))
    old, new = (np.asarray(image.dataobj.get_unscaled()).astype(np.float64) for image in (before, after))
    is_number = np.isfinite(old)
    assert np.array_equal(np.isfinite(new), is_number) and not (new - old)[~region & is_number].any()
    assert after.header == before.header and verify(tmp_path / "out").exit_code == 0


def test_a_mask_of_another_place_or_size_is_refused(tmp_path: Path) -> None:
    values = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    for name, shape, affine in (("a", SHAPE, AFFINE + np.diag([0, 0, 1, 0])), ("b", (14, 18, 4), AFFINE)):
        _save(tmp_path / "in" / f"{name}.nii", nibabel.Nifti1Image(values, AFFINE))
        _save(tmp_path / "masks" / f"{name}.nii", nibabel.Nifti1Image(np.ones(shape, np.uint8), affine))
    first, second = _protect(tmp_path).entries
    assert "another affine" in (first.reason or "") and "is 14×18×4, its image is 14×18×5" in (second.reason or "")


def test_a_dry_run_looks_at_every_plane_of_the_masks(tmp_path: Path) -> None:
    """Of a volume without an object, one with a class in its last plane that has no code, and one with an object."""
    values = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    empty, unknown, good = np.zeros(SHAPE, np.uint8), _ball(SHAPE) * np.uint8(2), _ball(SHAPE) * np.uint8(2)
    unknown[3, -1, 2] = 9
    for name, mask in (("a", empty), ("b", unknown), ("c", good)):
        _save(tmp_path / "in" / f"{name}.nii", nibabel.Nifti1Image(values, AFFINE))
        _save(tmp_path / "masks" / f"{name}.nii", nibabel.Nifti1Image(mask, AFFINE))
    settings = replace(SETTINGS, mask_type="index")
    foreseen, done = (
        protect(
            tmp_path / "in",
            tmp_path / "out",
            settings,
            masks=tmp_path / "masks",
            key=KEY,
            codes={0: 0, 2: 1},
            dry_run=dry_run,
        ).entries
        for dry_run in (True, False)
    )
    assert [entry.status for entry in done] == ["skipped", "failed", "protected"], done
    for before, after in zip(foreseen, done, strict=True):
        assert (before.input, before.status, before.reason) == (after.input, after.status, after.reason)


def test_a_changed_header_and_a_broken_bound_are_found(tmp_path: Path) -> None:
    values = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    _save(tmp_path / "in" / "a.nii", nibabel.Nifti1Image(values, AFFINE))
    _save(tmp_path / "masks" / "a.nii", nibabel.Nifti1Image(_ball(SHAPE).astype(np.uint8), AFFINE))
    _protect(tmp_path)
    out = tmp_path / "out" / "a.nii"
    good = out.read_bytes()
    for place, problem in ((150, "its header is not"), (len(good) - 1, "changes the background")):
        bad = bytearray(good)
        bad[place] ^= 0x20
        out.write_bytes(bad)
        assert problem in str(verify(tmp_path / "out").findings[0].problem)


def test_hostile_volumes_are_refused_within_little_memory(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    image = nibabel.Nifti1Image(np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE), AFFINE)
    good = image.to_bytes()

    def changed(place: int, value: bytes) -> bytes:
        return good[:place] + value + good[place + len(value) :]

    shapes = {
        "huge.nii": changed(42, b"\xff\x7f" * 3),
        "negative.nii": changed(42, b"\xff\xff"),
        "axes.nii": changed(40, b"\x09\0"),
        "offset.nii": changed(108, np.float32(1e9).tobytes()),
        "complex.nii": changed(70, b"\x20\0"),
        "cut.nii": good[:-3],
        "bomb.nii.gz": gzip.compress(good + bytes(400_000_000), 1),
        "cut.nii.gz": gzip.compress(good)[:-30],
        "two.nii": changed(344, b"ni1\0"),
    }
    for name, data in shapes.items():
        (tmp_path / "in" / name).write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    entries = protect(tmp_path / "in", tmp_path / "out", SETTINGS, whole_image=True, key=KEY).entries
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB
    reasons = {entry.input: entry.reason for entry in entries}
    assert [entry.status for entry in entries] == ["failed"] * len(shapes), reasons
    assert "over the limit" in str(reasons["huge.nii"]) and "far more bytes" in str(reasons["bomb.nii.gz"])
    assert "cut short: 3 bytes" in str(reasons["cut.nii"]) and "complex64 values" in str(reasons["complex.nii"])


def test_without_the_extra_one_line_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    copyfile(SHIPPED / "example4d.nii.gz", tmp_path / "in" / "a.nii.gz")
    monkeypatch.setattr(type(KINDS["NIfTI"]), "is_there", False)
    (entry,) = protect(tmp_path / "in", tmp_path / "out", SETTINGS, whole_image=True, key=KEY).entries
    assert entry.reason == "NIfTI needs nibabel, which is not installed; run: pip install 'unseg[formats]'"
