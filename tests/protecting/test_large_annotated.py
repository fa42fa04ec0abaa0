"""A photograph of 24 megapixels with annotations is protected at its own size, in bounded memory, by the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from skimage import data

from unseg.protecting.verification import verify

TESTS = Path(__file__).resolve().parents[1]
HEIGHT, WIDTH = 4000, 6000
PEAK_MIB = 1536
COMMANDS = """
import sys
sys.path.insert(0, {root!r})
from tests.support.own_memory import peak_memory_mib
from unseg import cli
import unseg.protecting.run  # its own share, before the first image
start = peak_memory_mib()
common = ["--device", "cpu", "--workers", "2", "-q", "--json"]
panoptic = ["--annotations", "panoptic.json", "--objects", "things", "--out", "things"]
codes = [cli.main(["protect", "images", *panoptic, *common]),
         cli.main(["protect", "images", "--annotations", "polygons.json", "--out", "polygons", *common])]
print(codes, start, peak_memory_mib(), file=sys.stderr)
"""


def write_set(folder: Path) -> None:
    """One photograph; 96 squares of three classes as panoptic ids, 60 circles of 400 corners as polygons."""
    for name in ("images", "panoptic"):
        (folder / name).mkdir()
    photograph = Pillow.fromarray(data.astronaut()).resize((WIDTH, HEIGHT), Pillow.BICUBIC)
    photograph.save(folder / "images" / "x.jpg", quality=92)
    ids, segments = np.zeros((HEIGHT, WIDTH, 3), np.uint8), []
    for number in range(96):
        top, left = number // 12 * 500, number % 12 * 500
        ids[top : top + 480, left : left + 480] = number + 1, 2, 1
        segments.append({"id": number + 1 + 2 * 256 + 65536, "category_id": 1 + number % 3, "iscrowd": 0})
    Pillow.fromarray(ids).save(folder / "panoptic" / "x.png", compress_level=1)
    turn = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    circles = [
        np.stack([300 + number % 10 * 600 + 250 * np.cos(turn), 300 + number // 10 * 650 + 250 * np.sin(turn)], 1)
        for number in range(60)
    ]
    content = {
        "images": [{"id": 1, "file_name": "x.jpg", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": number, "name": str(number), "isthing": number % 2} for number in (1, 2, 3)],
    }
    (folder / "panoptic.json").write_text(
        json.dumps({**content, "annotations": [{"image_id": 1, "file_name": "x.png", "segments_info": segments}]})
    )
    (folder / "polygons.json").write_text(
        json.dumps(
            {
                **content,
                "annotations": [
                    {
                        "id": number,
                        "image_id": 1,
                        "category_id": 1 + number % 3,
                        "iscrowd": 0,
                        "segmentation": [circle.ravel().tolist()],
                    }
                    for number, circle in enumerate(circles)
                ],
            }
        )
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="a process's own peak memory")
def test_24_megapixels_with_annotations_stay_within_a_gigabyte_and_a_half(tmp_path: Path) -> None:
    write_set(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS.format(root=str(TESTS.parent))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env={"PYTHONPATH": str(TESTS.parent)},
    )
    codes, start, peak = done.stderr.strip().splitlines()[-1].rsplit(" ", 2)
    assert codes == "[0, 0]", done.stderr
    assert int(start) < int(peak) <= PEAK_MIB
    proof = verify(tmp_path / "things", workers=2)
    assert proof.failures == [] and proof.largest_changes() == (8, 0)
    written = Pillow.open(tmp_path / "polygons" / "x.png")
    assert written.size == (WIDTH, HEIGHT)
