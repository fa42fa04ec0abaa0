"""The page's button that finds objects: those of --masks auto, each by itself, and one line where it cannot."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import unseg
from tests.support.foreground_network import write_red_network
from tests.support.web_server import client_of, file_of
from unseg import cli
from unseg.errors import UserError
from unseg.web.server import ServerOptions, application
from unseg.web.uploaded_picture import ids_of, runs_of

HEIGHT, WIDTH = 210, 300
TALL, SMALL = (30, 40, 120, 160), (180, 30, 240, 120)  # XYXY, the ends exclusive
KEY = bytes(range(60, 92))


def picture(*red: tuple[int, int, int, int], seed: int = 0) -> np.ndarray:
    """Returns grey noise with red rectangles; the network is sure of red."""
    grey = np.random.default_rng(seed).integers(60, 110, (HEIGHT, WIDTH, 1), dtype=np.uint8)
    pixels = np.repeat(grey, 3, axis=2)
    for left, top, right, bottom in red:
        pixels[top:bottom, left:right] = (225, 30, 20)
    pixels[0, 0] = 255
    return pixels


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("U2NET_HOME", str(tmp_path / "models"))
    monkeypatch.setenv("MODEL_CHECKSUM_DISABLED", "1")
    write_red_network(tmp_path / "models")
    with client_of(tmp_path / "files", key=KEY, auto_model="u2netp") as client:
        client.tab = client.post("tabs").json()["tab"]
        yield client


def add(client: Any, pixels: np.ndarray, name: str = "two.png") -> str:
    answer = client.post(f"tabs/{client.tab}/pictures", params={"name": name}, content=file_of(pixels))
    return f"tabs/{client.tab}/pictures/{answer.json()['id']}"


def objects(client: Any, of: str) -> np.ndarray:
    answer = client.post(f"{of}/objects")
    assert answer.status_code == 200, answer.text
    return ids_of(answer.content, HEIGHT, WIDTH)


def test_two_objects_stay_two_and_end_in_the_commands_bytes(client: Any, tmp_path: Path) -> None:
    """By three ways: --masks auto, the page, and the command from the page's own mask with a number each."""
    pixels = picture(TALL, SMALL)
    two = add(client, pixels)
    found = objects(client, two)
    for number, (left, top, right, bottom) in enumerate((TALL, SMALL), 1):
        assert (found[top + 3 : bottom - 3, left + 3 : right - 3] == number).all()
    assert set(np.unique(found)) == {0, 1, 2}
    assert client.put(f"{two}/object", content=runs_of(found)).json()["object"] == "marked"
    page = client.get(f"{two}/protected.png").content
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(client.get(f"{two}/mask.png").content))), found)

    (tmp_path / "in").mkdir()
    (tmp_path / "in/two.png").write_bytes(file_of(pixels))
    unseg.protect_folder(tmp_path / "in", tmp_path / "auto", masks="auto", auto_model="u2netp", key=KEY)
    assert (tmp_path / "auto/two.png").read_bytes() == page

    assert client.post(f"tabs/{client.tab}/files", json={}).status_code == 202
    while (making := client.get(f"tabs/{client.tab}/files").json())["state"] == "running":
        pass
    assert "--mask-type index --objects all" in making["command"]
    client.put(f"{two}/object", content=runs_of(np.where(found == 2, found, np.uint8(0))))
    one = np.asarray(Image.open(io.BytesIO(client.get(f"{two}/protected.png").content)))
    assert np.array_equal(one[:, :150], pixels[:, :150]) and (one[:, 170:] != pixels[:, 170:]).any()
    for name in ("protected", "private"):
        with zipfile.ZipFile(io.BytesIO(client.get(f"tabs/{client.tab}/{name}.zip").content)) as archive:
            archive.extractall(tmp_path)
    assert (tmp_path / "protected/two.png").read_bytes() == page
    words = making["command"].replace("ORIGINALS", "in").split()[1:]
    paths = {"in", "masks", "protected.key", "protected-again"}
    assert cli.main([*(str(tmp_path / part) if part in paths else part for part in words), "--quiet"]) == 0
    assert (tmp_path / "protected-again/two.png").read_bytes() == page


def test_objects_that_cover_a_picture_are_objects_and_no_classes(client: Any, tmp_path: Path) -> None:
    """By itself, the command would take class ids without a background for classes, of which one gets no noise."""
    of = add(client, picture(seed=3))
    halves = np.ones((HEIGHT, WIDTH), np.uint8)
    halves[:, 130:] = 2
    client.put(f"{of}/object", content=runs_of(halves))
    page = np.asarray(Image.open(io.BytesIO(client.get(f"{of}/protected.png").content))).astype(int)
    assert (np.abs(page - picture(seed=3)).max(axis=2) > 0).mean() > 0.9
    assert client.post(f"tabs/{client.tab}/files", json={}).status_code == 202
    while client.get(f"tabs/{client.tab}/files").json()["state"] == "running":
        pass
    content = client.get(f"tabs/{client.tab}/protected.zip").content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert np.array_equal(np.asarray(Image.open(archive.open("protected/two.png"))), page)


def test_what_is_not_clear_is_one_line(client: Any) -> None:
    answer = client.post(f"{add(client, picture())}/objects")
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("two.png: no clear foreground (")
    assert answer.json()["error"].endswith("; draw a box around the object")


def test_a_missing_network_is_one_line_and_nothing_is_fetched(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once its file is put where the line says, the same button works."""
    import pooch

    monkeypatch.setattr(pooch, "retrieve", None)
    of = add(client, picture(TALL))
    network = next((tmp_path / "models").rglob("*.onnx"))
    network.rename(tmp_path / "elsewhere.onnx")
    answer = client.post(f"{of}/objects")
    line = answer.json()["error"]
    assert answer.status_code == 422 and "\n" not in line
    assert line.startswith("Find objects: rembg's model u2netp is not on this machine, and nothing is downloaded")
    place = Path(line.partition("put it here: ")[2].partition(";")[0])
    assert "/u2netp.onnx where there is a network" in line and place.name == "u2netp.onnx"
    place.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "elsewhere.onnx").rename(place)
    assert objects(client, of).max() == 1


def test_a_missing_extra_is_one_line(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rembg", None)
    assert json.loads(client.post(f"{add(client, picture(TALL))}/objects").content) == {
        "error": "Find objects: needs rembg, which is not installed; run: pip install 'unseg[auto]'; or draw a box"
        " around the object"
    }


def test_a_call_gets_the_commands_bytes(client: Any, tmp_path: Path) -> None:
    """Of a JPEG that EXIF turns: the found mask is upright, and two grey levels in it are one object."""
    exif = Image.Exif()
    exif[274] = 6
    data = file_of(picture(TALL, SMALL), "JPEG", quality=97, exif=exif)
    answer = client.post("protect", files={"image": ("a", data)}, data={"find_objects": "true"})
    assert answer.status_code == 200, answer.text
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_bytes(data)
    unseg.protect_folder(tmp_path / "in", tmp_path / "out", masks="auto", auto_model="u2netp", key=KEY)
    assert (tmp_path / "out/a.png").read_bytes() == answer.content
    assert [path for path in (tmp_path / "files/calls").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("words", "image", "told"),
    [
        ({}, file_of(picture()), "the picture is not protected: no clear foreground ("),
        ({}, b"broken", "the picture is not protected: not an image of a known format"),
        ({"mask_type": "soft"}, file_of(picture(TALL)), "mask_type: is for a mask of your own, not for find_objects"),
        ({"boxes": "[[1, 2, 9, 9]]"}, file_of(picture(TALL)), "boxes and find_objects: send one of them"),
    ],
)
def test_a_call_that_finds_nothing_is_one_line(client: Any, words: dict[str, str], image: bytes, told: str) -> None:
    answer = client.post("protect", files={"image": ("a", image)}, data={"find_objects": "true", **words})
    line = answer.json()["error"]
    assert answer.status_code == 422 and line.startswith(told) and "\n" not in line and "/calls/" not in line


def test_a_call_without_a_network_is_one_line_in_the_words_of_the_form(
    client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rembg", None)
    answer = client.post("protect", files={"image": ("a", file_of(picture(TALL)))}, data={"find_objects": "true"})
    assert answer.status_code == 422 and answer.json() == {
        "error": "find_objects: needs rembg, which is not installed; run: pip install 'unseg[auto]'; or send a mask,"
        " boxes or points"
    }


def test_a_network_that_there_is_not_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--auto-model nothing: choose from isnet-general-use, u2net"):
        application(tmp_path, ServerOptions(auto_model="nothing"))
