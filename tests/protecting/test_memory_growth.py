"""What a run keeps of each image stays within a stated bound, so that folders may hold millions.

Measured with the allocations of Python, which are the same on every machine; processes as a whole are measured on the
page on performance.
"""

from __future__ import annotations

import shutil
import tarfile
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.told_progress import Told
from unseg.compute.threads import in_order, single_threaded_pool
from unseg.data.mask_detection import detect_kind
from unseg.data.samples import SampleFile
from unseg.protecting import verification
from unseg.protecting.execution import settle
from unseg.protecting.findings import Finding
from unseg.protecting.inputs import read_inputs
from unseg.protecting.manifest import AGREED, Entry, Manifest, ManifestWriter, read_manifest, write_manifest
from unseg.protecting.merging import merge
from unseg.protecting.opened_containers import open_containers
from unseg.protecting.planning import plan_run
from unseg.protecting.request import Request
from unseg.protecting.settings import ProtectSettings
from unseg.protecting.shards import SHARD, Shard
from unseg.storage import sequences
from unseg.storage.label_decoding import Label

SMALL, LARGE = 400, 1400
# Bytes an image, at most. What is looked at hangs on how threads take turns.
LISTED, RECORDED, VERIFIED, MERGED, IN_TARS, LOOKED = 300, 150, 250, 200, 250, 600


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is put into temporary files goes there at once: else a part of a thousand images would stay in memory."""
    monkeypatch.setattr(sequences, "IN_MEMORY", 1)
    monkeypatch.setattr(sequences, "SORTED_AT_A_TIME", 64)


def growth(measured: Callable[[int], object]) -> float:
    """Returns the bytes that the peak grows by with every image."""
    peaks: dict[int, list[int]] = {SMALL: [], LARGE: []}
    for count in 3 * (SMALL, LARGE):
        tracemalloc.start()
        kept = measured(count)
        peaks[count].append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        del kept
    # At first, modules are imported. Later, Python's table of interned words grows once, by 2 MB, at any time.
    return (min(peaks[LARGE][1:]) - min(peaks[SMALL][1:])) / (LARGE - SMALL)


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


@pytest.mark.parametrize("shard", [None, Shard(3, 7)])
def test_listing_and_planning(folders: Path, shard: Shard | None) -> None:
    settings = ProtectSettings(workers=1, mask_type="binary", auto_objects=False)

    def planned(count: int) -> object:
        masks, parts = folders / f"masks-{count}", None if shard is None else shard.count
        out = folders / f"out-{parts}-{count}"
        request = Request((folders / f"photos-{count}",), out, settings, masks=masks, key=bytes(32))
        with single_threaded_pool(1) as pool:
            if shard is not None and not out.exists():
                out.mkdir()
                plan = replace(request, shard=Shard(0, shard.count))
                settle(plan_run(plan, read_inputs(plan, pool, Told()), pool, Told()), shard.count, pool, Told())
            request = replace(request, shard=shard)
            plan = plan_run(request, read_inputs(request, pool, Told()), pool, Told())
        assert len(plan.jobs) == (count if shard is None else 3 * count // 7 - 2 * count // 7)
        return plan

    assert growth(planned) < LISTED


def test_lines_of_the_manifest(tmp_path: Path) -> None:
    def written(count: int) -> object:
        out = tmp_path / f"{count}"
        out.mkdir(exist_ok=True)
        write(out, {}, range(count))
        found = read_manifest(out)
        assert found is not None and found.entries[f"folder/photograph-{number_of(7)}.jpg", "../photos"] == line(7)
        return found

    assert growth(written) < RECORDED


def test_the_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(entries: Iterable[Entry], *_: object) -> Iterator[Finding]:
        return (Finding(entry.output or "", None, 8.0, 0.0, psnr=41.25) for entry in entries)

    monkeypatch.setattr(verification, "findings_of", found)  # of the images, which are not there
    mask_rule = {"kind": "binary", "objects": None, "ignore_label": None, "background_label": None}
    settings = {"mask_rule": mask_rule, "image_size": 64, "mask_size": 16, "region": "mask", "metadata": "keep"}

    def proven(count: int) -> object:
        out = tmp_path / f"{count}"
        if not out.exists():
            (out / "folder").mkdir(parents=True)
            write(out, settings, range(count))
            for number in range(count):
                (out / f"folder/photograph-{number_of(number)}.png").touch()
        result = verification.verify(out)
        assert (len(result.findings), result.exit_code, result.largest_changes()) == (count, 0, (8.0, 0.0))
        return result

    assert growth(proven) < VERIFIED


def test_merged_shards(tmp_path: Path) -> None:
    def merged(count: int) -> object:
        out = tmp_path / f"{count}"
        agreed = {AGREED: {"count": 10, "images": count}}
        shutil.rmtree(out, ignore_errors=True)
        for number in range(1, 11):
            shard = Shard(number, 10)
            shard.folder(out).mkdir(parents=True)
            write(shard.folder(out), {}, shard.of(range(count)), {**agreed, SHARD: number})
        write_manifest(out, Manifest({**HEADER, **agreed, "settings": SETTINGS}, {}), finished=False)
        summary = merge(out)
        assert summary.counts == {"protected": count} and summary.entries[7] == line(7)
        return summary

    assert growth(merged) < MERGED


def test_names_in_tars(tmp_path: Path) -> None:
    """Two members an image, in tars of a hundred."""
    for count in (SMALL, LARGE):
        (tmp_path / f"{count}").mkdir()
        for first in range(0, count, 100):
            with tarfile.open(tmp_path / f"{count}" / f"{first:06d}.tar", "w") as tar:
                for number in range(first, first + 100):
                    for suffix in ("jpg", "mask.png"):
                        tar.addfile(tarfile.TarInfo(f"{number:09d}.{suffix}"))

    def opened(count: int) -> object:
        found = open_containers(tmp_path / f"{count}", "mask.png", None)
        listed = {image: mask for container in found.found[:2] for image, mask in container.images()}
        assert listed["000000123.jpg"] == "000000123.mask.png" and len(listed) == 200
        return found

    assert growth(opened) < IN_TARS


HEADER = {"format": 2}
SETTINGS = {"object_budget": 8}


def write(
    folder: Path, settings: dict[str, object], numbers: Sequence[int], beside: Mapping[str, object] | None = None
) -> None:
    """Writes a manifest with lines of such numbers."""
    with ManifestWriter(folder, {**HEADER, **(beside or {}), "settings": {**SETTINGS, **settings}}, ()) as manifest:
        for number in numbers:
            manifest.announce([Entry(*line(number).key, "started", claims=(line(number).output or "",))])
            manifest.add(line(number))


def number_of(number: int) -> str:
    return f"{number:08d}"


def line(number: int) -> Entry:
    digests = [f"{number:064x}", f"{number + 1:064x}", f"{number + 2:064x}"]
    return Entry(
        f"folder/photograph-{number_of(number)}.jpg",
        "../photos",
        "protected",
        output=f"folder/photograph-{number_of(number)}.png",
        width=640,
        height=480,
        input_sha256=digests[0],
        output_sha256=digests[1],
        mask=f"folder/photograph-{number_of(number)}.png",
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
