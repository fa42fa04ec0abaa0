"""mask="auto" in Python: the object of one image is what --masks auto finds, and the network is opened once."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

import unseg
from tests.support.foreground_network import write_red_network
from tests.support.red_pictures import HEIGHT, SMALL, TALL, WIDTH, picture
from unseg.errors import UserError
from unseg.protecting import foreground_models, foreground_object
from unseg.protecting.foreground_models import ForegroundModel

KEY = bytes(range(50, 82))
AUTO: dict[str, Any] = {"mask": "auto", "auto_model": "u2netp"}


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("U2NET_HOME", str(tmp_path / "models"))
    monkeypatch.setenv("MODEL_CHECKSUM_DISABLED", "1")  # of rembg before 2.0.70, which looks at files that are there
    monkeypatch.setattr(foreground_object, "_models", {})
    write_red_network(tmp_path / "models")
    return tmp_path / "models"


def test_one_image_is_protected_as_by_the_command(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Pillow.fromarray(picture(TALL, SMALL)).save(tmp_path / "photos" / "two.jpg", quality=97)
    folder = {"masks": "auto", "auto_model": "u2netp"}
    assert unseg.protect_folder(tmp_path / "photos", tmp_path / "out", key=KEY, **folder).exit_code == 0
    data = (tmp_path / "photos" / "two.jpg").read_bytes()
    assert unseg.protect(data, key=KEY, **AUTO) == (tmp_path / "out" / "two.png").read_bytes()
    protector = unseg.Protector(key=KEY, auto_model="u2netp")
    pixels = np.asarray(Pillow.open(tmp_path / "photos" / "two.jpg"))
    expected = np.asarray(Pillow.open(tmp_path / "out" / "two.png"))
    assert np.array_equal(protector(pixels, "auto"), expected)
    for made in protector.many([pixels, pixels], "auto"):
        assert np.array_equal(made.image, expected)


def test_threads_open_the_network_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, real = [], ForegroundModel._open

    def counted(model: ForegroundModel) -> Any:
        opened.append(model.name)
        return real(model)

    monkeypatch.setattr(ForegroundModel, "_open", counted)
    images = [picture(TALL, seed=1), picture(SMALL, seed=2)]
    expected = [unseg.protect(image, key=KEY, **AUTO) for image in images]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda place: unseg.protect(images[place % 2], key=KEY, **AUTO), range(6)))
    assert opened == ["u2netp"]
    assert all(np.array_equal(one, expected[place % 2]) for place, one in enumerate(made))
    assert not (expected[0][:, 170:] != images[0][:, 170:]).any() and (expected[0] != images[0]).any()


def test_what_is_not_clear_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^mask='auto': no clear foreground \(.*\); give a mask, boxes or points$"):
        unseg.protect(picture(), **AUTO)


def test_nothing_is_looked_for_where_more_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreground_models.ForegroundModel, "__call__", None)
    with pytest.raises(UserError, match="mask and boxes: give one of them"):
        unseg.protect(picture(TALL), boxes=[[1, 1, 9, 9]], **AUTO)
    with pytest.raises(UserError, match="classes: tell by themselves"):
        unseg.protect(picture(TALL), classes=np.zeros((HEIGHT, WIDTH), int), codes={0: 1}, **AUTO)
    with pytest.raises(UserError, match="--auto-model nothing: choose from isnet-general-use"):
        unseg.protect(picture(TALL), mask="auto", auto_model="nothing")


def test_a_network_that_would_not_be_asked_is_told() -> None:
    """In one call, as the command does; a protector's network waits for calls that name no mask."""
    pixels, mask = picture(TALL), np.zeros((HEIGHT, WIDTH), bool)
    mask[50:150, 40:110] = True
    for object_of in ({"mask": mask}, {"boxes": [[1, 1, 9, 9]]}, {"whole_image": True}, {}):
        with pytest.raises(UserError, match=r"^auto_model 'u2netp': is for mask='auto'; give that, or leave it out$"):
            unseg.protect(pixels, auto_model="u2netp", **object_of)
    protector = unseg.Protector(key=KEY, auto_model="u2netp")
    assert np.array_equal(protector(pixels, mask), unseg.protect(pixels, mask, key=KEY))
    with pytest.raises(UserError, match="--auto-model nothing: choose from isnet-general-use"):
        unseg.Protector(auto_model="nothing")


def test_a_missing_extra_is_one_line_and_is_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "rembg", None)
        needs = (
            r"needs rembg, which is not installed; run: pip install 'unseg\[auto\]'; or give a mask, boxes or points"
        )
        with pytest.raises(UserError, match=f"^mask='auto': {needs}$"):
            unseg.protect(picture(TALL), **AUTO)
    assert (unseg.protect(picture(TALL), **AUTO) != picture(TALL)).any()


def test_a_download_is_told_before_it_begins(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pooch

    told: list[str] = []

    def offline(*arguments: Any, **options: Any) -> str:
        told.append("asked")
        raise ConnectionError("no network")

    monkeypatch.setattr(pooch, "retrieve", offline)
    with (
        pytest.warns(UserWarning, match=r"^mask='auto': .*silueta is not on this machine; rembg downloads it now"),
        pytest.raises(UserError, match=r"could not be downloaded \(no network\); get https:.*/silueta\.onnx where"),
    ):
        unseg.protect(picture(TALL), mask="auto", auto_model="silueta")
    assert told == ["asked"]
