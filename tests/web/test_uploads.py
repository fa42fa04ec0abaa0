"""What comes in: counted, named harmlessly, decoded by the decoders that distrust it; each refusal is one line."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest

from tests.support.web_server import client_of, file_of, photograph
from unseg.web import archives, routes, uploaded_picture, uploads
from unseg.web.uploaded_picture import ids_of, runs_of
from unseg.web.uploads import free_name, relative_name


@pytest.fixture
def client(tmp_path):
    with client_of(tmp_path / "files") as client:
        client.folder = tmp_path / "files"
        client.tab = client.post("tabs").json()["tab"]
        yield client


def send(client, content, name="cat.jpg", kind="pictures"):
    return client.post(f"tabs/{client.tab}/{kind}", params={"name": name}, content=content)


def zipped(members, **options):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def words(*values):
    return b"".join(struct.pack("<I", value) for value in values)


def kept(client):
    """What lies on the disk of all that came in."""
    return sorted(path.relative_to(client.folder).as_posix() for path in client.folder.rglob("*") if path.is_file())


# --- pictures


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "cat.jpg is empty (0 bytes)"),
        (b"no picture at all", "cat.jpg: not an image of a known format"),
        (file_of(photograph(), "JPEG")[:900], "cat.jpg: "),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 100, "cat.jpg: "),
    ],
)
def test_what_is_no_picture_is_one_line_and_leaves_nothing(client, content, told):
    answer = send(client, content)
    assert answer.status_code == 422 and answer.json()["error"].startswith(told)
    assert str(client.folder) not in answer.text
    assert kept(client) == []


def test_a_picture_of_too_many_pixels_is_refused_by_its_header(tmp_path):
    """A PNG of 20,000 × 20,000 pixels in a few bytes."""
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    with client_of(tmp_path / "files", max_pixels=1_000_000) as client:
        client.tab = client.post("tabs").json()["tab"]
        answer = send(client, b"\x89PNG\r\n\x1a\n" + chunk + b"\0" * 200)
    assert answer.status_code == 422 and "limit of 1 megapixels" in answer.json()["error"]


def test_a_body_is_counted_whatever_its_header_says(client, monkeypatch):
    monkeypatch.setattr(routes, "IMAGE_BYTES", 1000)

    def lying():
        yield from [b"\xff\xd8\xff" + b"\0" * 500] * 3

    for content, headers in ((b"\0" * 1001, {}), (lying(), {}), (lying(), {"content-length": "10"})):
        answer = client.post(f"tabs/{client.tab}/pictures", params={"name": "a.jpg"}, content=content, headers=headers)
        assert answer.status_code == 413 and "most that this server takes" in answer.json()["error"]
    assert kept(client) == []


@pytest.mark.parametrize(
    "name",
    [
        *("", "/", "..", "../a.jpg", "a/../../b.jpg", "a//b.jpg", "C:/a.jpg", "a\\b.jpg", "a\0.jpg", "a\nb.jpg"),
        *(".hidden.jpg", "a/.b/c.jpg", "x" * 300 + ".jpg", "a/" * 600 + "b.jpg", "./a.jpg"),
    ],
)
def test_a_name_that_leads_elsewhere_is_refused(client, name):
    answer = send(client, file_of(photograph()), name)
    assert answer.status_code == 422 and "is no name that a picture may have here" in answer.json()["error"]
    assert kept(client) == []


@pytest.mark.parametrize(
    ("given", "name"),
    [("a.jpg", "a.jpg"), ("/a/b c.JPG", "a/b c.JPG"), ("cafe\u0301.jpg", "café.jpg"), ("ä/ö.png", "ä/ö.png")],
)
def test_other_names_stay(given, name):
    assert relative_name(given) == name


def test_two_pictures_never_share_a_mask(client):
    """cat.jpg, Cat.png and cat.jpg once more: on some systems their masks would be one file."""
    names = [
        send(client, file_of(photograph(seed)), name).json()
        for seed, name in enumerate(("cat.jpg", "Cat.png", "cat.jpg"))
    ]
    assert [answer["name"] for answer in names] == ["cat.jpg", "Cat-2.png", "cat-3.jpg"]
    assert names[1]["note"] == "called Cat-2.png here, since another picture has its name"
    assert free_name("a.b/c", str.casefold, {"a.b/c"}) == "a.b/c-2"


def test_a_name_that_is_a_folder_already_is_one_line(client):
    assert send(client, file_of(photograph()), "a/b.png").status_code == 201
    answer = send(client, file_of(photograph()), "a")
    assert answer.status_code == 422 and answer.json()["error"].startswith("a: cannot be kept under this name")


def test_an_apple_photograph_is_taken(client):
    pillow_heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(__import__("PIL.Image").Image.fromarray(photograph())).save(buffer)
    answer = send(client, buffer.getvalue(), "IMG_1.HEIC")
    assert answer.status_code == 201 and (answer.json()["width"], answer.json()["height"]) == (85, 60)
    shown = client.get(f"tabs/{client.tab}/pictures/1/original.png")
    assert shown.headers["content-type"] == "image/png"  # which browsers show


def test_a_tab_takes_so_many_pictures_and_no_more(client, monkeypatch):
    from unseg.web import tabs

    monkeypatch.setattr(tabs, "TAB_PICTURES", 1)
    assert send(client, file_of(photograph())).status_code == 201
    answer = send(client, file_of(photograph()), "other.png")
    assert answer.status_code == 413 and "at most 1 pictures" in answer.json()["error"]


# --- archives


def test_a_zip_gives_its_pictures_and_says_what_it_left_out(client):
    picture = file_of(photograph(), "JPEG")
    members = [
        ("trip/a.jpg", picture),
        ("trip/b.png", b"broken"),
        ("trip/notes.txt", b"words"),
        ("__MACOSX/trip/._a.jpg", b"\0" * 10),
        ("trip/.DS_Store", b"x"),
        ("unnamed", picture),
    ]
    answer = send(client, zipped(members), "trip.zip", "archives").json()
    assert "error" not in answer, answer
    assert [found["name"] for found in answer["pictures"]] == ["trip/a.jpg", "unnamed"]
    assert [(found["name"], found["reason"].split(":")[0]) for found in answer["left_out"]] == [
        ("trip/b.png", "not an image of a known format (JPEG, PNG, WEBP, BMP, TIFF, GIF, AVIF, HEIF, JXL)"),
        ("trip/notes.txt", "is no picture"),
    ]
    assert kept(client) == [f"tabs/{client.tab}/originals/trip/a.jpg", f"tabs/{client.tab}/originals/unnamed"]


@pytest.mark.parametrize("name", ["../up.jpg", "/etc/up.jpg", "a/../../up.jpg", "..\\up.jpg", "C:" + "\\up.jpg"])
def test_a_zip_writes_nothing_beside_its_folder(client, name):
    """Python's reader takes drives and backslashes as they are; a name with them is refused."""
    answer = send(client, zipped([(name, file_of(photograph()))]), "evil.zip", "archives").json()
    good = relative_or_none(name.replace("\\", "/") if "\\" in name and ":" not in name else name)
    assert [found["name"] for found in answer["pictures"]] == ([good] if good else [])
    inside = client.folder / "tabs" / client.tab
    assert all(path.startswith(inside.relative_to(client.folder).as_posix()) for path in kept(client))
    assert not list(client.folder.parent.glob("**/up.jpg")) or good


def relative_or_none(name):
    from unseg.web.refusals import Refusal

    try:
        return relative_name(name)
    except Refusal:
        return None


def test_links_and_locked_members_of_a_zip_are_left_out(client):
    link = zipfile.ZipInfo("link.jpg")
    link.external_attr = 0o120777 << 16
    locked = bytearray(zipped([("locked.jpg", file_of(photograph()))]))
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        locked[locked.index(signature) + flags] |= 1
    answers = [
        send(client, content, "x.zip", "archives").json()
        for content in (zipped([(link, b"/etc/passwd")]), bytes(locked))
    ]
    assert [answer["left_out"][0]["reason"] for answer in answers] == [
        "is a link, which is not followed",
        "is encrypted; pack it without a password",
    ]
    assert kept(client) == []


def test_a_bomb_ends_where_the_room_ends(client, monkeypatch):
    """100 MB of zeros in 100 kB, behind the first bytes of a JPEG; and many of them."""
    bomb = zipped(
        [(f"{number}.jpg", b"\xff\xd8\xff" + bytes(20_000_000)) for number in range(3)],
        compression=zipfile.ZIP_DEFLATED,
    )
    assert len(bomb) < 100_000
    monkeypatch.setattr(archives, "IMAGE_BYTES", 5_000_000)
    answer = send(client, bomb, "bomb.zip", "archives").json()
    assert [found["reason"] for found in answer["left_out"]] == ["unpacks to more than 5 MB"] * 3
    from unseg.web import tabs

    monkeypatch.setattr(tabs, "TAB_BYTES", 1_000_000)
    answer = send(client, bomb, "bomb.zip", "archives")
    assert answer.status_code == 413 and "unpack to more than this server keeps" in answer.json()["error"]
    assert kept(client) == []


def test_a_zip_that_lies_about_sizes_is_cut_off(client, monkeypatch):
    """Its tables say 10 bytes; what unpacks is counted."""
    content = bytearray(zipped([("a.jpg", b"\xff\xd8\xff" + bytes(3_000_000))], compression=zipfile.ZIP_DEFLATED))
    place = content.index(b"PK\1\2")
    content[place + 24 : place + 28] = struct.pack("<I", 10)
    answer = send(client, bytes(content), "liar.zip", "archives").json()
    assert answer["pictures"] == [] and len(answer["left_out"]) == 1
    assert kept(client) == []


def test_a_long_list_of_members_is_refused(client, monkeypatch):
    monkeypatch.setattr(archives, "MEMBERS", 5)
    answer = send(client, zipped([(f"{number}.txt", b"") for number in range(6)]), "many.zip", "archives")
    assert answer.status_code == 413 and "holds 6 files, over 5" in answer.json()["error"]
    monkeypatch.setattr(archives, "READ_AT_ONCE", 200)  # its list is longer: it is not even read
    answer = send(client, zipped([(f"{number}.txt", b"") for number in range(6)]), "many.zip", "archives")
    assert answer.status_code == 422 and "its list of files is too long" in answer.json()["error"]


@pytest.mark.parametrize(  # named, since a name of bytes would hold the time of the archive
    "content",
    [b"PK\3\4 and no more", b"not a zip", zipped([("a.jpg", b"x")])[:-30]],
    ids=["begins like one", "none", "cut short"],
)
def test_a_broken_zip_is_one_line(client, content):
    answer = send(client, content, "x.zip", "archives")
    assert answer.status_code == 422 and answer.json()["error"].startswith("x.zip: cannot be read as a zip file")


# --- objects


COUNT = 60 * 85  # pixels of the photograph


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "have 0 pixels, the picture has 5100"),
        (b"\1" * 9, "end within a word"),
        (words(COUNT - 1 << 8), "have 5099 pixels"),
        (words(COUNT << 8, 1 << 8), "have 5101 pixels"),
        (words(*[2**32 - 1] * 300), "have 5033164500 pixels"),
        (words(COUNT << 8 | 251), "have a number over 250"),
        (b"\0" * (4 * COUNT + 4), "most that this server takes"),
    ],
)
def test_objects_that_are_none_are_refused(client, content, told):
    assert send(client, file_of(photograph())).status_code == 201
    answer = client.put(f"tabs/{client.tab}/pictures/1/object", content=content)
    assert answer.status_code in (413, 422) and told in answer.json()["error"]


@pytest.mark.parametrize(
    "body", ["", "[]", "{}", '{"box": 5}', '{"box": [9, 9, 1, 1]}', '{"box": ["a", 0, 1, 1]}', "{" * 5000]
)
def test_a_box_that_is_none_is_refused(client, body):
    send(client, file_of(photograph()))
    answer = client.post(f"tabs/{client.tab}/pictures/1/outline", content=body)
    assert answer.status_code == 422 and list(answer.json()) == ["error"]


def test_limits_are_numbers_that_people_read():
    assert uploads._size(512_000_000) == "512 MB" and uploads._size(638) == "638 bytes"


def test_runs_are_what_they_are_said_to_be():
    ids = np.array([[0, 0, 3], [3, 3, 250]], np.uint8)
    assert runs_of(ids) == words(2 << 8, 3 << 8 | 3, 1 << 8 | 250)
    assert np.array_equal(ids_of(runs_of(ids), 2, 3), ids)
    noise = np.random.default_rng(3).integers(0, 251, (17, 23)).astype(np.uint8)
    assert np.array_equal(ids_of(runs_of(noise), 17, 23), noise)


def test_a_run_that_is_too_long_for_a_word_is_several(monkeypatch):
    monkeypatch.setattr(uploaded_picture, "LONGEST", 5)
    ids = np.repeat(np.array([7, 0, 9], np.uint8), [12, 5, 1]).reshape(3, 6)
    assert runs_of(ids) == words(5 << 8 | 7, 5 << 8 | 7, 2 << 8 | 7, 5 << 8, 1 << 8 | 9)
    assert np.array_equal(ids_of(runs_of(ids), 3, 6), ids)
