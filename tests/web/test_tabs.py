"""A tab's pictures: what is made of them is what the command makes, and nothing of them stays."""

from __future__ import annotations

import io
import json
import sys
import time
import zipfile
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tests.support.web_server import client_of, file_of, object_of, photograph
from unseg import cli
from unseg.errors import UserError
from unseg.protecting.effect import effect
from unseg.storage import image_decoding
from unseg.web import tabs
from unseg.web.darkroom import Changed
from unseg.web.uploaded_picture import ids_of, runs_of
from unseg.web.verdict import SEEN, looks, verdict

KEY = bytes(range(32))


@pytest.fixture
def client(tmp_path):
    with client_of(tmp_path / "files", key=KEY) as client:
        client.folder = tmp_path / "files"
        client.tab = client.post("tabs").json()["tab"]
        yield client


def add(client, content, name="cat.jpg"):
    answer = client.post(f"tabs/{client.tab}/pictures", params={"name": name}, content=content)
    assert answer.status_code == 201, answer.text
    return f"tabs/{client.tab}/pictures/{answer.json()['id']}"


def mark(client, picture, mask_HW):
    answer = client.put(f"{picture}/object", content=runs_of(mask_HW.view(np.uint8)))
    assert answer.status_code == 200, answer.text
    return answer.json()


def made(client, **settings):
    answer = client.post(f"tabs/{client.tab}/files", json=settings)
    assert answer.status_code == 202, answer.text
    end = time.monotonic() + 60
    while (making := client.get(f"tabs/{client.tab}/files").json())["state"] == "running":
        assert time.monotonic() < end
        time.sleep(0.02)
    return making


def unzip(client, name, folder):
    content = client.get(f"tabs/{client.tab}/{name}.zip").content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        archive.extractall(folder)
        return archive.namelist()


@cache  # the profile holds the second in which it was made
def turned_jpeg(seed=5):
    """A photograph that EXIF turns, with a colour profile."""
    from PIL import ImageCms

    exif = Image.Exif()
    exif[274] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return file_of(photograph(seed), "JPEG", exif=exif, icc_profile=profile, quality=90)


# name, file, size of the mask
KINDS = {
    "a/cat.jpg": (lambda: file_of(photograph(), "JPEG"), (60, 85)),
    "turned.jpg": (turned_jpeg, (85, 60)),
    "grey.png": (lambda: file_of(photograph(2)[..., 0]), (60, 85)),
    "deep.png": (lambda: file_of(photograph(3)[..., 0].astype(np.uint16) * 257), (60, 85)),
    "clear.png": (lambda: file_of(np.dstack([photograph(4), photograph(6)[..., 0]])), (60, 85)),
}


@pytest.mark.parametrize("word", ["subtle", "standard", "strong"])
@pytest.mark.parametrize("form", ["png", "webp"])
def test_single_files_zips_and_the_command_give_the_same_bytes(client, tmp_path, word, form):
    """Each kind of picture by three ways: the page's download, its zip, and the command from its masks and key."""
    originals, singles = tmp_path / "originals", {}
    for name, (content, size) in KINDS.items():
        if form == "webp" and name == "deep.png":
            continue  # WebP holds 8 bits
        path = originals / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content())
        picture = add(client, content(), name)
        mark(client, picture, object_of(*size))
        singles[name] = client.get(f"{picture}/protected.{form}?strength={word}&download")
        assert singles[name].status_code == 200, singles[name].text
    making = made(client, strength=word, format=form)
    assert making["state"] == "done" and making["others"] == [] and making["protected"] == len(singles)
    unzip(client, "protected", tmp_path)
    names = unzip(client, "private", tmp_path)
    assert {"protected.key", "READ-ME.txt", "masks/a/cat.png"} <= set(names)

    words = making["command"].replace("ORIGINALS", "originals").split()[1:]
    paths = {"originals", "masks", "protected.key", "protected-again"}
    assert cli.main([*(str(tmp_path / part) if part in paths else part for part in words), "--quiet"]) == 0
    for name, answer in singles.items():
        output = name.rpartition(".")[0] + f".{form}"
        again = (tmp_path / "protected-again" / output).read_bytes()
        assert answer.content == again == (tmp_path / "protected" / output).read_bytes(), name
    lines = [(tmp_path / folder / "unseg-manifest.jsonl").read_text() for folder in ("protected", "protected-again")]
    assert lines[0].splitlines()[1:] == lines[1].splitlines()[1:]
    assert cli.main(["verify", str(tmp_path / "protected"), "--quiet"]) == 0


def test_pictures_that_have_another_name_here_and_those_without_an_object_are_named_beside_the_commands(
    client, tmp_path
):
    """With the names that are told, and what was not marked elsewhere, both commands do what is said of them."""
    originals = tmp_path / "originals"
    originals.mkdir()
    contents = {
        "cat.jpg": file_of(photograph(), "JPEG"),
        "cat.png": file_of(photograph(1)),
        "not.png": file_of(photograph(2)),
    }
    marked = [add(client, contents[name], name) for name in ("cat.jpg", "cat.png", "not.png")]
    mark(client, marked[0], object_of())
    assert client.put(f"{marked[1]}/object?whole=1").status_code == 200
    making = made(client)
    assert making["state"] == "done", making
    unzip(client, "protected", tmp_path)
    unzip(client, "private", tmp_path)
    told = (tmp_path / "READ-ME.txt").read_text()
    assert "    cat.png -> cat-2.png\n" in told and "keep them elsewhere:\n\n    not.png\n" in told
    for name, content in contents.items():
        if name != "not.png":
            (originals / {"cat.png": "cat-2.png"}.get(name, name)).write_bytes(content)
    masks = str(tmp_path / "masks")
    assert cli.main(["verify", str(tmp_path / "protected"), "--originals", str(originals), "--masks", masks]) == 0
    words = making["command"].replace("ORIGINALS", "originals").split()[1:]
    paths = {"originals", "masks", "protected.key", "protected-again"}
    assert cli.main([*(str(tmp_path / part) if part in paths else part for part in words), "--quiet"]) == 0
    for name in ("cat.png", "cat-2.png"):
        assert (tmp_path / "protected-again" / name).read_bytes() == (tmp_path / "protected" / name).read_bytes()


def test_verify_takes_the_zips_with_the_originals_elsewhere(client, tmp_path):
    picture = add(client, file_of(photograph()), "cat.png")
    mark(client, picture, object_of())
    made(client)
    unzip(client, "protected", tmp_path / "out")
    unzip(client, "private", tmp_path / "out")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "cat.png").write_bytes(file_of(photograph()))
    command = ["verify", str(tmp_path / "out/protected"), "--originals", str(elsewhere), "--masks"]
    assert cli.main([*command, str(tmp_path / "out/masks")]) == 0
    (elsewhere / "cat.png").write_bytes(file_of(photograph(9)))
    assert cli.main([*command, str(tmp_path / "out/masks")]) == 1


def test_the_zip_to_publish_holds_neither_key_nor_original(client):
    content = file_of(photograph(), "JPEG")
    picture = add(client, content)
    mark(client, picture, object_of())
    made(client)
    public = client.get(f"tabs/{client.tab}/protected.zip").content
    with zipfile.ZipFile(io.BytesIO(public)) as archive:
        assert archive.namelist() == ["protected/unseg-manifest.jsonl", "protected/cat.png"]
        unpacked = b"".join(map(archive.read, archive.namelist()))
    assert KEY not in unpacked and KEY.hex().encode() not in unpacked and content not in unpacked
    again = made(client)["state"], client.get(f"tabs/{client.tab}/protected.zip").content
    assert again == ("done", public)  # the same files give the same zip


def test_another_strength_needs_no_new_pass(client, monkeypatch):
    passes = []
    real = image_decoding.decode_image

    def counted(*arguments, **options):
        passes.append(arguments[0])
        return real(*arguments, **options)

    monkeypatch.setattr(image_decoding, "decode_image", counted)
    picture = add(client, file_of(photograph()))
    mark(client, picture, object_of())
    largest = [
        client.get(f"{picture}/verdict?strength={word}").json()["largest"] for word in ("subtle", "standard", "strong")
    ]
    assert largest == [4, 8, 12]
    assert client.get(f"{picture}/protected.png?strength=strong").status_code == 200
    assert client.get(f"{picture}/original.png").status_code == 200
    assert len(passes) == 1


def test_the_noise_and_the_original_are_shown_as_they_are(client):
    pixels, mask = photograph(), object_of()
    picture = add(client, file_of(pixels), "cat.png")
    mark(client, picture, mask)
    original, protected, noise = (
        np.asarray(Image.open(io.BytesIO(client.get(f"{picture}/{name}.png").content))).astype(int)
        for name in ("original", "protected", "noise")
    )
    assert np.array_equal(original, pixels)
    assert np.array_equal(noise, np.clip(128 + 16 * (protected - original), 0, 255))
    assert (noise[~mask] == 128).all() and (noise[mask] != 128).any()


def test_a_box_gives_what_the_api_finds_in_it(client, tmp_path):
    import unseg

    pixels, box = photograph(), [8, 8, 44, 32]
    picture = add(client, file_of(pixels), "cat.png")
    answer = client.post(f"{picture}/outline", json={"box": box})
    assert answer.headers["unseg-outline"] == "found"
    client.put(f"{picture}/object", content=answer.content)
    page = client.get(f"{picture}/protected.png").content
    direct = unseg.protect(pixels, boxes=[box], refine_boxes=True, key=KEY)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(page))), direct)
    mask = np.asarray(Image.open(io.BytesIO(client.get(f"{picture}/mask.png").content)))
    assert np.array_equal(mask, ids_of(answer.content, *mask.shape)) and set(np.unique(mask)) == {0, 1}


def test_a_whole_image_is_not_called_protected(client, tmp_path):
    first, second = add(client, file_of(photograph()), "one.png"), add(client, file_of(photograph(2)), "two.png")
    assert client.put(f"{first}/object?whole=1").json()["object"] == "whole"
    found = client.get(f"{first}/verdict").json()
    assert found["status"] == "whole" and "cannot keep networks from learning" in found["sentences"][0]
    assert "--whole-image" in made(client)["command"]
    mark(client, second, object_of())
    making = made(client)
    assert (making["protected"], making["whole"]) == (1, 1) and "--unmasked whole" in making["command"]
    unzip(client, "protected", tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "protected/unseg-manifest.jsonl").read_text().splitlines()[1:]]
    assert [line.get("object") for line in lines] == ["whole image", None]


def test_what_changed_too_little_is_called_weak():
    """The grey ramp changes by one level where eight were allowed."""
    pixels = np.tile(np.arange(85, dtype=np.uint8), (60, 1))[..., None]
    status, reason = effect(pixels, pixels + 1, object_of(), 8)
    changed = Changed((), image_decoding.Image(pixels), pixels + 1, object_of(), status, reason)
    found = verdict(changed, whole=False)
    assert (found["status"], found["largest"]) == ("weak", 1)
    assert found["sentences"][0].startswith("Weak, not protected: its object changed by 1 grey levels on average")
    assert found["sentences"][0].endswith("Black or white areas have no room for noise.")
    assert verdict(changed, whole=True)["status"] == "weak"


def test_an_object_of_few_pixels_is_called_weak():
    pixels, few = np.full((60, 85, 3), 90, np.uint8), np.zeros((60, 85), bool)
    few[20, 30:61] = True
    status, reason = effect(pixels, pixels + 8, few, 8)
    told = verdict(Changed((), image_decoding.Image(pixels), pixels + 8, few, status, reason), whole=False)["sentences"]
    assert told[0].startswith("Weak, not protected: its object has 31 pixels: ")
    assert told[0].endswith(" Mark a larger object.")


def test_without_scikit_image_less_is_said(monkeypatch):
    pixels = photograph()
    changed = Changed((), image_decoding.Image(pixels), pixels + 8, object_of(), "protected", None)
    assert looks(changed)["s_cielab"] > 1.5 and looks(changed)["sentence"] == SEEN[0][1]
    faint = Changed((), image_decoding.Image(pixels), pixels + np.uint8(1), object_of(), "protected", None)
    assert looks(faint)["delta_e"] < 1 and looks(faint)["sentence"] == SEEN[2][1]
    same = Changed((), image_decoding.Image(pixels), pixels, object_of(), "weak", "")
    assert looks(same) == {}
    monkeypatch.setitem(sys.modules, "skimage", None)
    assert looks(changed) == {} and verdict(changed, whole=False)["largest"] == 8


@pytest.mark.parametrize("path", ["protected.png", "noise.png", "verdict", "mask.png"])
def test_nothing_is_made_before_there_is_an_object(client, path):
    picture = add(client, file_of(photograph()))
    for _ in range(2):
        answer = client.get(f"{picture}/{path}")
        assert answer.status_code == 409 and answer.json()["error"].endswith("mark it first")
        mark(client, picture, np.zeros((60, 85), bool))  # is no object either
    assert client.post(f"tabs/{client.tab}/files", json={}).status_code == 409
    assert client.get(f"tabs/{client.tab}/protected.zip").status_code == 409


@pytest.mark.parametrize(
    ("settings", "told"),
    [({"strength": "brutal"}, "strength brutal: choose from"), ({"format": "jpeg"}, "format jpeg")],
)
def test_a_setting_that_is_none_is_one_line(client, settings, told):
    mark(client, add(client, file_of(photograph())), object_of())
    answer = client.post(f"tabs/{client.tab}/files", json=settings)
    assert answer.status_code == 422 and answer.json()["error"].startswith(told)


def test_a_deep_picture_is_no_webp(client):
    picture = add(client, KINDS["deep.png"][0](), "deep.png")
    mark(client, picture, object_of())
    answer = client.get(f"{picture}/protected.webp")
    assert answer.status_code == 422 and answer.json()["error"].startswith("deep.png: WebP holds 8 bits")


def test_the_time_left_follows_from_the_pictures_that_are_done(monkeypatch):
    from unseg.web import result_files

    now = [100.0]
    monkeypatch.setattr(result_files.time, "monotonic", lambda: now[0])
    making = result_files.Making(order=SimpleNamespace(command=lambda: ""))
    assert making.as_json()["seconds_left"] is None
    with making.bar("images", 10) as tick:
        for _ in range(4):
            now[0] += 2.5
            tick()
        told = making.as_json()
        assert (told["done"], told["total"], told["seconds_left"]) == (4, 10, 15.0)
        making.stopped = True
        with pytest.raises(UserError, match="the tab was closed"):
            tick()


# --- what stays: nothing


def test_a_closed_tab_leaves_nothing(client):
    picture = add(client, file_of(photograph()))
    mark(client, picture, object_of())
    made(client)
    assert any(client.folder.rglob("*.zip"))
    assert client.post(f"tabs/{client.tab}/close").status_code == 204
    assert [path for path in client.folder.rglob("*") if path.is_file()] == []
    assert client.post(f"tabs/{client.tab}/alive").status_code == 404
    assert client.get(f"{picture}/original.png").status_code == 404
    assert client.post(f"tabs/{client.tab}/close").status_code == 204  # as browsers may say twice


def test_a_silent_tab_is_closed_and_a_living_one_stays(client):
    other = client.post("tabs").json()["tab"]
    add(client, file_of(photograph()))
    shared = client.app.app.state.shared.tabs
    shared.get(client.tab).seen -= tabs.SILENCE + 1
    client.post(f"tabs/{other}/alive")
    shared.close_silent()
    assert client.post(f"tabs/{client.tab}/alive").status_code == 404
    assert client.post(f"tabs/{other}/alive").status_code == 204
    assert not (client.folder / "tabs" / client.tab).exists() and tabs.BEAT * 3 < tabs.SILENCE


def test_a_removed_picture_is_gone_from_the_disk(client):
    picture = add(client, file_of(photograph()))
    assert client.delete(picture).status_code == 204
    assert client.get(f"{picture}/original.png").status_code == 404
    assert [path for path in client.folder.rglob("*") if path.is_file()] == []


def test_tabs_do_not_see_one_another(client):
    """Each has its own pictures; without --key, also its own key."""
    picture = add(client, file_of(photograph()))
    other = client.post("tabs").json()["tab"]
    assert client.get(picture.replace(client.tab, other) + "/original.png").status_code == 404
    assert client.get(f"tabs/{client.tab}/key").text == KEY.hex() + "\n"


def test_each_tab_draws_a_key_of_its_own(tmp_path):
    with client_of(tmp_path / "files") as client:
        keys = [client.get(f"tabs/{client.post('tabs').json()['tab']}/key").text for _ in range(2)]
        assert keys[0] != keys[1] and all(len(bytes.fromhex(key)) == 32 for key in keys)
        for _ in range(tabs.MOST_TABS - 2):
            assert client.post("tabs").status_code == 201
        answer = client.post("tabs")
        assert answer.status_code == 429 and "close some" in answer.json()["error"]
