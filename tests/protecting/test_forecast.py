"""What is said before a long run: counts and sizes of what is to do, time and room from the trial of a few images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

import unseg.protecting.execution
import unseg.protecting.trials
from tests.support.fake_generator import loaded
from tests.support.told_progress import Told
from unseg.protecting.forecast import Forecast, Trial, duration, forecast, spread
from unseg.protecting.manifest import MANIFEST
from unseg.protecting.run import ProtectSettings, protect


def test_time_and_room_by_hand() -> None:
    trials = [Trial(2.0, 0.5, 1000, 3000), Trial(4.0, 1.5, 3000, 5000)]
    # 10 images: 3 s of generator each, two at a time; 0.5 s a thousand bytes around it, 40,000 bytes, four at a time.
    made = forecast(12, 2, [4000] * 10, trials, generators=2, workers=4, bytes_free=10**12)
    assert made.seconds == pytest.approx(10 * 3 / 2 + 40 * 0.5 / 4)
    assert made.bytes_out == 80_000 and made.bytes_in == 40_000
    assert made.sentences("out") == [
        "10 images to protect (40.0 kB), into out; 2 are finished already",
        "this will take about 20 seconds and 80.0 kB on disk; 1.0 TB are free",
    ]


def test_too_little_room_is_said() -> None:
    sentences = Forecast(1, 0, 10, 5.0, 2_000_000, 1_000_000).sentences("out")
    assert sentences[0] == "1 image to protect (10 bytes), into out"
    assert sentences[2].startswith("note: that is not enough room; the run will stop when the disk is full")


def test_without_trials_there_is_no_promise() -> None:
    assert forecast(3, 0, [5, 5, 5], [], 1, 1).sentences("out") == ["3 images to protect (15 bytes), into out"]
    assert forecast(3, 3, [], [], 1, 1).sentences("out") == [
        "0 images to protect (0 bytes), into out; 3 are finished already"
    ]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "a second"),
        (40, "40 seconds"),
        (89, "89 seconds"),
        (90, "2 minutes"),
        (5000, "83 minutes"),
        (5400, "1.5 hours"),
        (129_600, "1.5 days"),
    ],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_spread_takes_the_middles() -> None:
    assert spread(range(9), 3) == [1, 4, 7] and spread(range(2), 3) == [0, 1] and spread([], 3) == []


def test_a_long_run_is_foretold_and_trials_leave_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unseg.protecting.execution, "TRIED_FROM", 6)
    (tmp_path / "in").mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 30 + number, 3), dtype=np.uint8)
        Pillow.fromarray(pixels).save(tmp_path / "in" / f"{number}.png")
    (tmp_path / "in" / "1.png").write_bytes(b"broken, and so tells nothing")
    settings, listener = ProtectSettings(device="cpu", workers=2), Told()
    written = []

    def watched(*arguments: object, **options: object) -> object:
        written.append(list((tmp_path / "out").glob("*.png")))
        return forecast(*arguments, **options)

    monkeypatch.setattr(unseg.protecting.trials, "forecast", watched)
    protect([tmp_path / "in"], tmp_path / "out", settings, generator=loaded(), progress=listener, whole_image=True)
    assert written == [[]]
    assert listener.sentences[0].startswith("6 images to protect (") and listener.sentences[0].endswith(
        f"into {tmp_path / 'out'}"
    )
    assert listener.sentences[1].startswith("this will take about a second and ")
    made = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.png"))
    said = float(listener.sentences[1].split(" and ")[1].split()[0]) * 1000
    assert said == pytest.approx(made, rel=0.25)  # PNG to PNG of noise: nearly the same size
    plain = tmp_path / "plain"
    monkeypatch.undo()
    protect([tmp_path / "in"], plain, settings, generator=loaded(), whole_image=True)
    assert (plain / MANIFEST).read_bytes() == (tmp_path / "out" / MANIFEST).read_bytes()
