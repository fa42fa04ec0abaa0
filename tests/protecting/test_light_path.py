"""What the light base does, on Linux, macOS and Windows: protect, go on, verify, and one run at a time in a folder.

Nothing here needs torch, a shell, or what one system alone has; tests/light-base.txt lists what CI runs on all three.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

import unseg
from unseg.errors import UserError
from unseg.protecting.manifest import MANIFEST, read_manifest
from unseg.protecting.run import ProtectSettings, Summary
from unseg.storage.files import files_under, make_folders
from unseg.storage.image_decoding import read_image
from unseg.storage.locks import LOCK_FILE, SILENCE, FolderLock

ROOT = Path(__file__).resolve().parents[2]
LIGHT = ROOT / "tests" / "light-base.txt"
NAMES = ("a.jpg", "a.png", "sub/写真.bmp", "sub/dots.and spaces.png")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        path = tmp_path / "photos" / name
        make_folders(path.parent)
        pixels = np.random.default_rng(number).integers(0, 256, (37, 58, 3), dtype=np.uint8)
        Pillow.fromarray(pixels).save(path)
    mask = np.zeros((37, 58), np.uint8)
    mask[4:30, 11:40] = 255
    for name in ("a.png", "sub/写真.png", "sub/dots.and spaces.png"):
        make_folders((tmp_path / "masks" / name).parent)
        Pillow.fromarray(mask).save(tmp_path / "masks" / name)
    return tmp_path / "photos"


def run(photos: Path) -> Summary:
    settings = ProtectSettings(workers=2)
    return unseg.protect_folder(photos, photos.parent / "out", settings, masks=photos.parent / "masks")


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_under(folder)}


def test_protect_go_on_and_verify(photos: Path) -> None:
    out = photos.parent / "out"
    assert run(photos).exit_code == 0
    entries = read_manifest(out).entries
    assert sorted(tree(out)) == sorted([MANIFEST, *(entry.output or "" for entry in entries.values())])
    assert {entry.output for entry in entries.values()} == {
        "a.png",
        "a.jpg.png",
        "sub/写真.png",
        "sub/dots.and spaces.png",
    }
    assert b"\r" not in (out / MANIFEST).read_bytes() and b"\\\\" not in (out / MANIFEST).read_bytes()
    change = read_image(out / "a.png").samples.astype(int) - read_image(photos / "a.png").samples
    assert np.abs(change[4:30, 11:40]).mean() > 2 and not change[31:].any() and not change[:, 41:].any()
    assert unseg.verify(out).exit_code == 0

    before = tree(photos.parent)
    assert run(photos).kept == len(NAMES) and tree(photos.parent) == before
    (out / "a.png").unlink()
    assert run(photos).kept == len(NAMES) - 1 and tree(photos.parent) == before


def test_tree_that_moved_as_a_whole_verifies(photos: Path, tmp_path: Path) -> None:
    run(photos)
    moved = tmp_path.with_name(f"{tmp_path.name} moved")
    tmp_path.rename(moved)
    assert unseg.verify(moved / "out").exit_code == 0


def test_image_in_memory_is_the_command_s(photos: Path) -> None:
    run(photos)
    mask = np.asarray(Pillow.open(photos.parent / "masks" / "a.png")) > 0
    protected = unseg.protect(np.asarray(Pillow.open(photos / "a.png")), mask, key=photos.parent / "out.key")
    assert (protected == np.asarray(Pillow.open(photos.parent / "out" / "a.png"))).all()


def test_one_run_at_a_time_and_a_killed_one_is_followed(photos: Path) -> None:
    out = photos.parent / "out"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom unseg.storage.locks import FolderLock\n"
        "with FolderLock(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code, str(out)], stdout=subprocess.PIPE, env=environment) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline().strip() == b"held"
            with pytest.raises(UserError, match=f"process {holder.pid} on .* is writing there"):
                run(photos)
        finally:
            holder.kill()
    os.utime(out / LOCK_FILE, (time.time() - SILENCE - 5,) * 2)  # where the system's locks do not tell
    assert run(photos).exit_code == 0
    assert not (out / LOCK_FILE).exists()
    with FolderLock(out):
        pass


def test_list_for_the_light_base_needs_nothing_else() -> None:
    """Every module of the list is collected with the packages of all extras gone."""
    paths = LIGHT.read_text(encoding="utf-8").split()
    assert paths == sorted(set(paths)) and all((ROOT / path).is_file() for path in paths)
    gone = "torch torchvision timm safetensors segment_anything scipy skimage transformers onnxruntime rembg pyarrow"
    code = (
        f"import sys, pytest\nsys.modules.update(dict.fromkeys({gone!r}.split()))\n"
        "sys.exit(pytest.main(['-q', '--collect-only', '-p', 'no:cacheprovider', *sys.argv[1:]]))"
    )
    done = subprocess.run([sys.executable, "-c", code, *paths], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, re.sub(r"(?s).*?=+ ERRORS =+", "", done.stdout)
