"""--quality: colour differences and SSIM in manifest and table; an own computation, and what a later run adds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import unseg
from unseg import cli
from unseg.errors import UserError
from unseg.method import visibility
from unseg.protecting.manifest import MANIFEST, Entry, read_manifest
from unseg.protecting.verification import verify

KEY = bytes(range(32))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    draw = np.random.default_rng(8)
    for name, size in (("a", (40, 63)), ("b", (52, 31)), ("small", (9, 30))):
        mask = np.zeros(size, np.uint8)
        mask[2:8, 5:25] = 255
        for folder, values in (("photos", draw.integers(30, 220, (*size, 3), np.uint8)), ("masks", mask)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(values).save(tmp_path / folder / f"{name}.png")
    return tmp_path / "photos"


def entries(out: Path) -> dict[str, Entry]:
    found = read_manifest(out)
    assert found is not None
    return {entry.input: entry for entry in found.entries.values()}


def ssim_of(one: np.ndarray, other: np.ndarray) -> float:
    """Window by window, as the paper writes it; a Gaussian of σ 1.5 on 11 pixels a side."""
    reach = np.arange(-5, 6)
    weights = np.exp(-(reach[:, None] ** 2 + reach[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    found = []
    for top in range(one.shape[0] - 10):
        for left in range(one.shape[1] - 10):
            for channel in range(3):
                x, y = (image[top : top + 11, left : left + 11, channel].astype(float) for image in (one, other))
                mean_x, mean_y = (weights * x).sum(), (weights * y).sum()
                var_x, var_y = (weights * (x - mean_x) ** 2).sum(), (weights * (y - mean_y) ** 2).sum()
                both = (weights * (x - mean_x) * (y - mean_y)).sum()
                c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
                found.append(
                    (2 * mean_x * mean_y + c1) * (2 * both + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
                )
    return float(np.mean(found))


def test_ssim_is_that_of_the_paper(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(2)
    one = draw.integers(0, 256, (29, 17, 3), np.uint8)
    other = np.clip(one + draw.integers(-60, 61, one.shape), 0, 255).astype(np.uint8)
    expected = ssim_of(one, other)
    assert visibility.structural_similarity(one, other) == pytest.approx(expected, abs=1e-12)
    monkeypatch.setattr(visibility, "ROWS", 17 * 3)  # bands of three rows
    assert visibility.structural_similarity(one, other) == pytest.approx(expected, abs=1e-12)
    assert visibility.structural_similarity(one[:10], other[:10]) is None


def test_the_manifest_and_the_table_hold_what_was_measured(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, masks = tmp_path / "out", photos.parent / "masks"
    arguments = ["protect", str(photos), "--masks", str(masks), "--out", str(out)]
    assert cli.main([*arguments, "--quality"]) == 0
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for word in ("ΔE2000 of objects", "S-CIELAB of objects", "SSIM", "on average"):
        assert word in told
    found = entries(out)
    for name in ("a.png", "b.png"):
        clean, noised = (np.asarray(Image.open(folder / name)) for folder in (photos, out))
        mask = np.asarray(Image.open(masks / name)) > 0
        seen = visibility.visibility(clean, noised, mask)
        assert seen is not None
        assert (found[name].delta_e, found[name].s_cielab) == (seen.delta_e, seen.s_cielab)
        assert found[name].ssim == pytest.approx(ssim_of(clean, noised), abs=1e-12)
    assert found["small.png"].ssim is None and found["small.png"].delta_e is not None  # lower than a window
    assert verify(out).exit_code == 0
    assert cli.main([*arguments, "--quality", "--json"]) == 0
    quality = json.loads(capsys.readouterr().out)["quality"]
    assert quality["ssim"] == pytest.approx((found["a.png"].ssim + found["b.png"].ssim) / 2)
    assert quality["delta_e"] == pytest.approx(sum(entry.delta_e for entry in found.values()) / 3)


def test_a_later_run_measures_what_an_earlier_one_did_not(photos: Path, tmp_path: Path) -> None:
    out, masks = tmp_path / "out", photos.parent / "masks"
    unseg.protect_folder(photos, out, masks=masks)
    before = {path.name: path.read_bytes() for path in out.glob("*.png")}
    assert entries(out)["a.png"].delta_e is None
    again = unseg.protect_folder(photos, out, masks=masks, quality=True)
    assert again.kept == 0 and entries(out)["a.png"].delta_e is not None
    assert {path.name: path.read_bytes() for path in out.glob("*.png")} == before
    assert unseg.protect_folder(photos, out, masks=masks, quality=True).kept == 3
    assert unseg.protect_folder(photos, out, masks=masks).kept == 3 and entries(out)["a.png"].delta_e is not None
    assert not any("quality" in line for line in (out / MANIFEST).read_text().splitlines()[:1])


def test_pixels_without_noise_do_not_thin_the_figures_out(tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(30, 220, (40, 63, 3), np.uint8)
    mask = np.zeros((40, 63), bool)
    mask[5:30, 9:33] = True
    protector = unseg.Protector(key=KEY, codes={0: 0, 1: 1}, quality=True)
    alone = protector.result(image, mask).effect
    by_class = protector.result(image, classes=mask.astype(int)).effect
    assert by_class.delta_e == alone.delta_e and by_class.ssim == alone.ssim


def test_a_missing_package_is_one_line(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    needs = r"needs skimage, which is not installed; run: pip install 'unseg\[quality\]'"
    with pytest.raises(UserError, match=f"^--quality: {needs}$"):
        unseg.protect_folder(photos, tmp_path / "out", whole_image=True, quality=True)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=f"^quality: {needs}$"):
        unseg.Protector(quality=True)


def test_values_that_no_measure_has_are_refused(tmp_path: Path) -> None:
    line = {"input": "a.png", "input_root": ".", "status": "protected"}
    for measure, good in (({"ssim": -0.2}, True), ({"delta_e": -1}, False), ({"ssim": "high"}, False)):
        lines = [{"format": 2, "settings": {}}, {**line, **measure}]
        (tmp_path / MANIFEST).write_text("".join(json.dumps(one) + "\n" for one in lines))
        if good:
            read_manifest(tmp_path)
        else:
            with pytest.raises(UserError, match=f"line 2: {next(iter(measure))}|no number"):
                read_manifest(tmp_path)
