"""One picture by every way, byte for byte: light base, path of torch, HTTP interface, page and Python."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

import unseg
from tests.support.light_base import BLOCK, EXTRAS
from tests.support.web_process import ROOT
from tests.support.web_server import client_of, file_of, object_of, photograph
from unseg.web.uploaded_picture import runs_of

KEY = bytes(range(40, 72))
SETTINGS: dict[str, dict[str, str]] = {
    "standard": {},
    "subtle, WebP": {"strength": "subtle", "format": "webp"},
    "strong": {"strength": "strong"},
}
NETWORK = {"noise": "compact", "epsilon": "5"}
# What cannot be imported in each process, and what is imported first.
LIGHT, COMPACT = BLOCK, BLOCK.replace(repr(EXTRAS), repr(tuple(name for name in EXTRAS if name != "onnxruntime")))
TORCH = "import sys, torch; sys.modules['onnxruntime'] = None"
RUNS = """
import json, sys
from unseg import cli
for name, settings in json.loads(sys.argv[1]).items():
    options = [part for word, value in settings.items() for part in (f"--{word}", value)]
    line = ["protect", "photos", "--masks", "masks", "--device", "cpu", "--quiet", "--out", f"{sys.argv[2]}/{name}"]
    assert cli.main([*line, *options, *([] if "noise" in settings else ["--key", "k.key"])]) == 0
assert ("torch" in sys.modules) == (sys.argv[2] == "torch")
"""


def picture() -> bytes:
    """Returns a photograph that EXIF turns, with a colour profile, place and camera."""
    exif = Image.Exif()
    exif[274], exif[271] = 6, "camera"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return file_of(photograph(5), "JPEG", exif=exif, icc_profile=profile, quality=90)


PICTURE = picture()  # once: a profile holds the second that it was made in
MASK = object_of(85, 60)  # upright


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bytes")
    (folder / "k.key").write_text(KEY.hex())
    for name, data in (("photos/a.jpg", PICTURE), ("masks/a.png", file_of(MASK.astype(np.uint8) * 255))):
        (folder / name).parent.mkdir()
        (folder / name).write_bytes(data)
    return folder


def by_command(folder: Path, way: str, before: str, settings: Mapping[str, Mapping[str, str]]) -> dict[str, bytes]:
    """Returns what `unseg protect` writes with each of the settings, in one process."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{before}\n{RUNS}"
    line = [sys.executable, "-c", code, json.dumps(settings), way]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    suffixes = {name: words.get("format", "png") for name, words in settings.items()}
    return {name: (folder / way / name / f"a.{suffix}").read_bytes() for name, suffix in suffixes.items()}


def by_server(folder: Path, settings: Mapping[str, Mapping[str, str]]) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Returns what the HTTP interface and the page give."""
    files = {"image": ("a", PICTURE), "mask": ("m", (folder / "masks/a.png").read_bytes())}
    with client_of(folder / "server", key=KEY) as client:
        called = {name: client.post("protect", files=files, data=words).content for name, words in settings.items()}
        tab = f"tabs/{client.post('tabs').json()['tab']}"
        taken = client.post(f"{tab}/pictures", params={"name": "a.jpg"}, content=PICTURE).json()
        client.put(f"{tab}/pictures/{taken['id']}/object", content=runs_of(MASK.view(np.uint8)))
        shown = {}
        for name, words in settings.items():
            place = f"{tab}/pictures/{taken['id']}/protected.{words.get('format', 'png')}"
            shown[name] = client.get(place, params={"strength": words.get("strength", "standard")}).content
    return called, shown


def test_every_way_gives_the_same_bytes(folder: Path) -> None:
    light = by_command(folder, "light", LIGHT, SETTINGS)
    small = by_command(folder, "compact", COMPACT, {"network": NETWORK})
    large = by_command(folder, "torch", TORCH, {**SETTINGS, "network": NETWORK})
    called, shown = by_server(folder, SETTINGS)
    python = {
        name: unseg.protect(PICTURE, folder / "masks/a.png", key=KEY, **words) for name, words in SETTINGS.items()
    }
    network = unseg.protect(PICTURE, folder / "masks/a.png", noise="compact", epsilon=5)
    assert large == {**light, **small} and called == shown == python == light and network == small["network"]
    before = Image.open(io.BytesIO(PICTURE)).transpose(Image.Transpose.ROTATE_270)
    change = {
        name: np.abs(np.asarray(Image.open(io.BytesIO(data)), int) - np.asarray(before, int)).max()
        for name, data in large.items()
    }
    assert change == {"standard": 8, "subtle, WebP": 4, "strong": 12, "network": 5}
