"""A run is planned before it is carried out: what a plan knows, and that neither planning nor a constructor writes."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from tests.support.fake_generator import loaded
from tests.support.told_progress import Told
from unseg.data.object_rule import ObjectRule
from unseg.errors import UserError
from unseg.protecting.execution import Summary, execute
from unseg.protecting.inputs import read_inputs
from unseg.protecting.manifest import MANIFEST, Entry, ManifestWriter
from unseg.protecting.objects import MaskFiles, MaskFolder
from unseg.protecting.planning import RunPlan, plan_run
from unseg.protecting.request import Request
from unseg.protecting.settings import ProtectSettings

SETTINGS = ProtectSettings(device="cpu", workers=1, unmasked="copy")
NAMES = ("a.jpg", "b.png", "sub/c.png")


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    """Three photographs of 9×14, of which the last two have a mask of class ids; one mask has no photograph."""
    for number, name in enumerate(NAMES):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (9, 14, 3), dtype=np.uint8)
        Pillow.fromarray(pixels).save(path)
    for number, name in enumerate(("b.png", "sub/c.png", "other.png")):
        path = tmp_path / "masks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        classes = np.zeros((9, 14), np.uint8)
        classes[2:, 3:8], classes[4, 5] = 3, number + 4
        Pillow.fromarray(classes).save(path)
    out, photos = tmp_path / "out", (tmp_path / "photos",)
    return Request(photos, out, SETTINGS, masks=tmp_path / "masks", generator=loaded())


@pytest.fixture
def pool() -> object:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def planned(request: Request, pool: ThreadPoolExecutor, told: Told) -> RunPlan:
    request.check()
    return plan_run(request, read_inputs(request, pool, told), pool, told)


def run(request: Request) -> Summary:
    request.out.mkdir()  # by the lock, where the whole of a run is asked for
    with ThreadPoolExecutor(1) as own:
        return execute(planned(request, own, Told()), own, Told())


def test_a_plan_knows_every_image_and_writes_nothing(request_: Request, pool: ThreadPoolExecutor) -> None:
    told = Told()
    plan = planned(request_, pool, told)
    assert [(job.key, job.planned.output, job.planned.copy) for job in plan.jobs] == [
        (("a.jpg", "../photos"), "a.png", "a.jpg"),
        (("b.png", "../photos"), "b.png", "b.png"),
        (("sub/c.png", "../photos"), "sub/c.png", "sub/c.png"),
    ]
    assert plan.to_do == list(plan.jobs) and plan.problems == () and plan.before == {} and plan.processes == 1
    rule = {"kind": "index", "objects": None, "ignore_label": 255, "background_label": 0}
    assert plan.header["settings"]["mask_rule"] == rule and plan.header["settings"]["prompt"] == "mask"
    assert told.sentences == ["note: masks without an image: 1 (other.png)", told.sentences[1]]
    assert told.sentences[1].startswith("masks: class ids (4 of them, 3 to 6)")
    assert told.bars == [("masks", 3, 3)] and not request_.out.exists()


def test_a_plan_leaves_out_what_is_done(request_: Request, pool: ThreadPoolExecutor) -> None:
    summary = run(request_)
    assert [entry.status for entry in summary.entries] == ["copied", "protected", "protected"]
    plan = planned(dataclasses.replace(request_, processes=5), pool, Told())
    assert [job.sample.name for job in plan.to_do] == ["a.jpg"] and len(plan.before) == 3 and plan.processes == 3
    limited = planned(dataclasses.replace(request_, limit=2), pool, Told())
    assert [job.sample.name for job in limited.jobs] == ["a.jpg", "b.png"]


def test_a_plan_by_class_numbers_the_classes_by_area(request_: Request, pool: ThreadPoolExecutor) -> None:
    settings = dataclasses.replace(SETTINGS, rule=ObjectRule(by_class=True))
    request = dataclasses.replace(request_, settings=settings)
    with pytest.raises(UserError, match="generator fake.safetensors has no codes for classes"):
        planned(request, pool, Told())
    told = Told()
    settings = dataclasses.replace(settings, noise="compact")
    plan = planned(dataclasses.replace(request, settings=settings, generator=None), pool, told)
    assert plan.header["settings"]["codes"] == {"0": 0, "3": 1, "4": 2, "5": 3, "6": 4}
    assert plan.header["settings"]["mask_rule"]["background_label"] is None
    assert told.bars == [("masks", 3, 3), ("classes", 3, 3)]
    assert told.sentences[-1] == "classes: 5, codes by falling area"


def test_a_plan_is_refused_where_the_settings_are_others(request_: Request, pool: ThreadPoolExecutor) -> None:
    run(request_)
    settings = dataclasses.replace(SETTINGS, rule=ObjectRule((3,)), format="tiff")
    with pytest.raises(UserError) as error:
        planned(dataclasses.replace(request_, settings=settings), pool, Told())
    assert "(--format: png, now tiff; --objects: all, now 3)" in str(error.value)


def test_constructors_read_and_write_nothing(tmp_path: Path) -> None:
    paths = [tmp_path / "none" / "a.png"]
    assert MaskFiles(MaskFolder("../none", "index", paths), ObjectRule(), 100).prompt == "mask"
    Request((tmp_path / "none",), tmp_path / "out", SETTINGS, masks=tmp_path / "none").check()
    writer = ManifestWriter(tmp_path, {"format": 2, "settings": {}}, [Entry("a", "b", "copied")])
    assert list(tmp_path.iterdir()) == []
    with writer:
        assert (tmp_path / MANIFEST).read_text().count("\n") == 2
