"""What a run keeps of each image stays within a stated bound, so that folders may hold millions.

Measured with the allocations of Python, which are the same on every machine; processes as a whole are measured on the
page on performance.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.told_progress import Told
from unseg.compute.threads import in_order, single_threaded_pool
from unseg.data.mask_detection import detect_kind
from unseg.data.samples import SampleFile
from unseg.protecting.inputs import read_inputs
from unseg.protecting.manifest import Entry, ManifestWriter, read_manifest
from unseg.protecting.planning import plan_run
from unseg.protecting.request import Request
from unseg.protecting.settings import ProtectSettings
from unseg.storage.label_decoding import Label

SMALL, LARGE = 400, 1400
LISTED, RECORDED, LOOKED = 1300, 1400, 600  # bytes an image, at most; the last hangs on how threads take turns


def growth(measured: Callable[[int], object]) -> float:
    """Returns the bytes that the peak grows by with every image."""
    peaks = []
    for count in (SMALL, LARGE, SMALL, LARGE):  # at first, modules are imported, and Python's own tables grow
        tracemalloc.start()
        kept = measured(count)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        del kept
    return (peaks[3] - peaks[2]) / (LARGE - SMALL)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("many")
    for count in (SMALL, LARGE):
        for place in ("photos", "masks"):
            folder = root / f"{place}-{count}" / "a-folder-of-them"
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"photograph-{number:08d}.png").touch()
    return root


def test_listing_and_planning(folders: Path) -> None:
    settings = ProtectSettings(workers=1, mask_type="binary", auto_objects=False)

    def planned(count: int) -> object:
        masks = folders / f"masks-{count}"
        request = Request((folders / f"photos-{count}",), folders / "out", settings, masks=masks, key=bytes(32))
        with single_threaded_pool(1) as pool:
            plan = plan_run(request, read_inputs(request, pool, Told()), pool, Told())
        assert len(plan.jobs) == count
        return plan

    assert growth(planned) < LISTED


def test_lines_of_the_manifest(tmp_path: Path) -> None:
    def written(count: int) -> object:
        out = tmp_path / f"{count}"
        out.mkdir(exist_ok=True)
        with ManifestWriter(out, {"format": 2, "settings": {"object_budget": 8}}, ()) as manifest:
            for number in range(count):
                manifest.add(line(number))
        found = read_manifest(out)
        assert found is not None and found.entries[f"folder/photograph-{number:08d}.jpg", "../photos"] == line(number)
        return found

    assert growth(written) < 2 * RECORDED  # once written, once read


def line(number: int) -> Entry:
    digests = [f"{number:064x}", f"{number + 1:064x}", f"{number + 2:064x}"]
    return Entry(
        f"folder/photograph-{number:08d}.jpg",
        "../photos",
        "protected",
        output=f"folder/photograph-{number:08d}.png",
        width=640,
        height=480,
        input_sha256=digests[0],
        output_sha256=digests[1],
        mask=f"folder/photograph-{number:08d}.png",
        mask_root="../masks",
        mask_sha256=digests[2],
        object_budget=8.0,
        object_share=number / 7,
        psnr=number / 3,
    )


def test_looks_at_masks() -> None:
    """Nothing is kept of a mask but what all of them show together, also while threads look at the next ones."""
    values = np.zeros((12, 14), np.uint8)
    values[3:9, 4:11] = 255

    def looked(count: int) -> object:
        with single_threaded_pool(2) as pool:
            return detect_kind(range(count), pool, opener=lambda _: Label(values, None, False, "0" * 64)).kind

    assert growth(looked) < LOOKED


def test_a_pool_is_given_a_few_at_a_time() -> None:
    asked = []
    items = (asked.append(number) or number for number in range(2000))
    with single_threaded_pool(2) as pool:
        results = in_order(pool, lambda number: number * 3, items)
        assert [next(results) for _ in range(3)] == [0, 3, 6] and len(asked) < 300
        assert list(results) == [number * 3 for number in range(3, 2000)]


def test_an_image_is_known_by_its_name_alone(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    sample = SampleFile("a.png", tmp_path / "a.png", tmp_path)
    assert (sample.file, sample.image) == ("", tmp_path / "a.png")
    assert SampleFile("b", tmp_path / "a.png", tmp_path).image == tmp_path / "a.png"
