"""POST /protect: the bytes are the command's, limits hold, and each error is one line in the words of the form."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.support.web_server import client_of, file_of, object_of, photograph
from unseg import cli
from unseg.web import http_api
from unseg.web.api_description import FIELDS

KEY = bytes(range(100, 132))
PICTURE = file_of(photograph(), "JPEG")
MASK = file_of(object_of().astype(np.uint8) * 255)


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api") / "files"
    with client_of(folder, key=KEY) as client:
        client.folder = folder
        yield client


def post(client, *, image=PICTURE, mask=None, **words):
    files = {
        name: (f"{name}.bin", content) for name, content in (("image", image), ("mask", mask)) if content is not None
    }
    answer = client.post("protect", files=files or None, data=words)
    assert [path for path in client.folder.rglob("*") if path.is_file()] == []  # nothing is kept
    return answer


WAYS = {
    "mask": ({"mask": MASK}, ["--masks", "masks"]),
    "boxes": ({"boxes": "[[8, 8, 44, 32]]"}, ["--boxes", "boxes.json"]),
    "refined": ({"boxes": "[[8, 8, 44, 32]]", "refine_boxes": "true"}, ["--boxes", "boxes.json", "--refine-boxes"]),
    "points": ({"points": "[[20, 18]]"}, ["--points", "points.json"]),
    "whole": ({"whole_image": "true"}, ["--whole-image"]),
    "strong": ({"mask": MASK, "strength": "strong"}, ["--masks", "masks", "--strength", "strong"]),
    "epsilon": ({"mask": MASK, "epsilon": "3"}, ["--masks", "masks", "--epsilon", "3"]),
    "webp": ({"mask": MASK, "format": "webp"}, ["--masks", "masks", "--format", "webp"]),
    "tiff": (
        {"mask": MASK, "format": "tiff", "metadata": "none"},
        ["--masks", "masks", "--format", "tiff", "--metadata", "none"],
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_the_bytes_are_the_commands(client, tmp_path, way):
    words, options = WAYS[way]
    answer = post(client, **words)
    assert answer.status_code == 200, answer.text
    (tmp_path / "in").mkdir()
    (tmp_path / "masks").mkdir()
    (tmp_path / "in/a.jpg").write_bytes(PICTURE)
    (tmp_path / "masks/a.png").write_bytes(MASK)
    (tmp_path / "k.key").write_text(KEY.hex())
    for name in ("boxes", "points"):
        if name in words:
            (tmp_path / f"{name}.json").write_text(json.dumps({"a.jpg": json.loads(words[name])}))
    paths = [str(tmp_path / part) if part in ("masks", "boxes.json", "points.json") else part for part in options]
    command = [
        "protect",
        str(tmp_path / "in"),
        "--out",
        str(tmp_path / "out"),
        "--key",
        str(tmp_path / "k.key"),
        *paths,
    ]
    assert cli.main([*command, "--quiet"]) == 0
    (output,) = [path for path in (tmp_path / "out").iterdir() if path.stem == "a"]
    assert output.read_bytes() == answer.content
    assert (
        answer.headers["content-type"] == f"image/{output.suffix[1:].replace('tif', 'tiff').replace('tifff', 'tiff')}"
    )
    assert answer.headers["unseg-status"] == ("whole" if way == "whole" else "protected")
    assert float(answer.headers["unseg-psnr"]) > 30


def test_a_key_of_the_call_is_used(client):
    own, other = post(client, mask=MASK), post(client, mask=MASK, key="ab" * 32)
    assert own.content != other.content and own.headers["unseg-key-hash"] != other.headers["unseg-key-hash"]
    assert post(client, mask=MASK, key=KEY.hex()).content == own.content


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"image": None, "mask": MASK}, "image: send the picture as a file"),
        ({}, "what is the object? Send mask, boxes, points or find_objects=true; or whole_image=true, which"),
        ({"mask": MASK, "whole_image": "true"}, "mask and whole_image: send one of them"),
        ({"whole_image": "yes"}, "whole_image: 'yes': give true or false"),
        ({"mask": b"broken"}, "the picture is not protected: mask"),
        ({"mask": file_of(np.zeros((60, 85), np.uint8))}, "the picture is not protected: no object in its mask"),
        ({"mask": file_of(np.full((8, 9), 255, np.uint8))}, "the picture is not protected: mask"),
        ({"image": b"broken", "mask": MASK}, "the picture is not protected: not an image of a known format"),
        ({"mask": MASK, "strength": "brutal"}, "strength brutal: choose from"),
        ({"mask": MASK, "epsilon": "much"}, "epsilon much: give a number"),
        ({"mask": MASK, "format": "bmp"}, "format bmp: choose from"),
        ({"mask": MASK, "metadata": "some"}, "metadata some: choose from"),
        ({"mask": MASK, "mask_type": "odd"}, "mask_type odd: choose from"),
        ({"mask": MASK, "key": "00"}, "key: give 32 bytes"),
        ({"mask": MASK, "key": "zz" * 32}, "key: give 32 bytes"),
        ({"boxes": "5 and more"}, "boxes: is no JSON"),
        ({"boxes": "[[1, 2]]"}, "boxes: [1, 2] is no box"),
        ({"points": "[[500, 500]]"}, "the picture is not protected: every point"),
        ({"mask": MASK, "refine_boxes": "true"}, "refine_boxes: needs"),
        ({"mask": MASK, "unknown": "1"}, "'unknown': no such field; there are image, mask"),
        ({"mask": "words"}, "mask: send it as a file"),
    ],
)
def test_each_error_is_one_line_in_the_words_of_the_form(client, words, told):
    files = {name: words.pop(name) for name in ("image", "mask") if isinstance(words.get(name, 0), (bytes, type(None)))}
    answer = (
        post(client, **{"image": PICTURE, **files}, **words)
        if not isinstance(words.get("mask"), str)
        else client.post("protect", files={"image": ("a", PICTURE)}, data=words)
    )
    assert answer.status_code == 422, answer.text
    line = answer.json()["error"]
    assert line.startswith(told) and "\n" not in line
    assert "--" not in line and str(client.folder) not in line and "/calls/" not in line


def test_the_form_is_limited(client, monkeypatch):
    monkeypatch.setattr(http_api, "FORM_LIMIT", 3000)
    answer = post(client, image=b"\xff" * 4000, mask=MASK)
    assert answer.status_code == 413 and "most that this server takes" in answer.json()["error"]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"{}", "application/json"),
        (b"x", "multipart/form-data"),
        (b"--x\r\nnothing", "multipart/form-data; boundary=x"),
    ],
)
def test_what_is_no_form_is_one_line(client, content, kind):
    answer = client.post("protect", content=content, headers={"content-type": kind})
    assert answer.status_code == 422 and list(answer.json()) == ["error"]


def test_too_many_or_too_long_fields_are_one_line(client):
    many = client.post("protect", files=[("image", ("a", PICTURE))] * 3)
    long = client.post("protect", files={"image": ("a", PICTURE)}, data={"boxes": "[" * 100_000})
    for answer in (many, long):
        assert answer.status_code == 422 and answer.json()["error"].startswith("the form cannot be read")


def test_the_description_says_what_the_form_takes(client):
    described = client.get("openapi.json").json()
    (path,) = described["paths"]
    form = described["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert (path, described["servers"], set(form["properties"])) == ("/protect", [{"url": "./"}], set(FIELDS))
    assert form["properties"]["strength"]["enum"] == ["subtle", "standard", "strong"]
    page = client.get("api").text
    assert all(f"<code>{name}</code>" in page for name in FIELDS) and "<script" not in page
    assert described["openapi"].startswith("3.1")
