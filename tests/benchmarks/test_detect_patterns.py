"""The benchmark of patterns: what a name stands for, what is asked, and that it goes on from its file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import detect_patterns
from benchmarks.detect_patterns import KEY, Candidate, Segmented, candidate, left_by_notches, main
from segment_anything_training.coded import CodedGenerator
from tests.support.measuring_folders import write_labels
from unseg.compute.progress import SILENT
from unseg.errors import UserError
from unseg.evaluation.time_to_detect import Detecting, Question, Window
from unseg.method.coded_noise import apply_codes
from unseg.method.config import Budget
from unseg.method.learned_codes import apply_learned_codes
from unseg.method.patterns import BOOK
from unseg.storage.image_encoding import encode_jpeg

BUDGET = Budget(8, 0)
PHOTO = np.random.default_rng(0).integers(20, 230, (40, 56, 3), dtype=np.uint8)
SEGMENTS = np.kron([[3, 9, 9], [3, 3, 200]], np.ones((20, 19)))[:, :56].astype(np.uint8)


def mini_bsds(root: Path) -> Path:
    for split in detect_patterns.SPLITS:
        path = root / "images" / split / f"{split}1.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(encode_jpeg(PHOTO))
        write_labels(root / "segments" / split / f"{split}1.b.png", SEGMENTS)
    return root


def test_names_stand_for_patterns() -> None:
    codes = np.where(SEGMENTS == 9, 1, 0).astype(np.uint8)
    assert np.array_equal(candidate("code1", BUDGET).noise(PHOTO, codes), apply_codes(PHOTO, codes, BOOK, KEY, BUDGET))
    flat = candidate("tint", BUDGET).noise(PHOTO, codes).astype(int) - PHOTO
    assert (flat[codes == 1] == [8, -8, 8]).all() and (flat[codes == 0] == 0).all()
    own = candidate("checkers:30:9+40:+0-", BUDGET).noise(PHOTO, codes).astype(int) - PHOTO
    assert set(map(tuple, own[codes == 1].tolist())) == {(8, 0, -8), (-8, 0, 8)} and (own[codes == 0] == 0).all()
    grey = candidate("grey2", BUDGET).noise(PHOTO, codes)
    assert np.array_equal(grey[codes == 0], PHOTO[codes == 0])
    assert not np.array_equal(grey, candidate("code2", BUDGET).noise(PHOTO, codes))
    assert candidate("book", BUDGET).codes == BOOK.codes


@pytest.mark.parametrize(
    "name", ["code0", "code13", "waves", "stripes:45:11.3", "rings:0:16:+-+", "stripes:0:1:+-+", "stripes:0:a:+-+"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"^{name.replace('+', '.')}: give"):
        candidate(name, BUDGET)


def test_a_network_of_learned_codes_makes_the_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(3)
    network = CodedGenerator().eval()
    torch.nn.init.normal_(network.head.weight, std=0.05)
    codes = np.where(SEGMENTS == 9, 2, 0).astype(np.uint8)
    made = candidate("learned-book", BUDGET, network)
    assert made.codes == BOOK.codes
    expected = apply_learned_codes(network, PHOTO, codes, BOOK, KEY, BUDGET)
    assert np.array_equal(made.noise(PHOTO, codes), expected)
    assert not np.array_equal(expected, apply_codes(PHOTO, codes, BOOK, KEY, BUDGET))
    assert main(["learned", "--data", str(mini_bsds(tmp_path)), "--out", str(tmp_path / "found.json")]) == 2
    assert "learned: needs --learned FILE" in capsys.readouterr().err


def test_segments_are_coded_at_random(tmp_path: Path) -> None:
    photographs = Segmented.read(mini_bsds(tmp_path), SILENT)
    asked = candidate("book", BUDGET)
    question = photographs.question(asked)
    assert (question.photographs, question.codes) == (2, BOOK.codes)
    seen: set[int] = set()
    for seed in range(30):
        pixels, codes = question.visit(1, np.random.default_rng(seed))
        for number in (3, 9, 200):
            (code,) = set(codes[number == SEGMENTS].tolist())
            seen.add(code)
            changed = (pixels != photographs.images[1])[number == SEGMENTS].any()
            assert changed == (code > 0)
    assert seen == set(range(BOOK.codes + 1))


def test_what_is_measured_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    calls: list[tuple[str, int]] = []

    def measured(question: Question, options: Detecting, *, progress: object, what: str) -> list[Window]:
        calls.append((what, options.steps))
        return [Window(50, 0.25, 0.5)]

    monkeypatch.setattr(detect_patterns, "time_to_detect", measured)
    out, data = tmp_path / "found.json", mini_bsds(tmp_path / "bsds")
    command = ["--data", str(data), "--out", str(out)]
    assert main(["code1", *command]) == 0
    assert main(["code1", "book", *command]) == 0
    assert calls == [("code1", 150), ("book", 200)]
    content = json.loads(out.read_text())
    assert list(content["patterns"]) == ["code1", "book"] and content["settings"]["book"] == BOOK.version
    assert content["patterns"]["code1"]["windows"] == [{"step": 50, "accuracy": 0.25, "told": 0.5}]
    capsys.readouterr()
    assert main(["code1", *command, "--epsilon", "4"]) == 2
    assert "was made with other settings" in capsys.readouterr().err
    assert main(["tint", "--data", str(tmp_path), "--out", str(tmp_path / "other.json")]) == 2
    assert "no photographs" in capsys.readouterr().err


def test_what_a_notch_filter_leaves_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two waves of one amplitude the filter takes one: half the energy is left."""
    x = np.arange(128)
    flat = np.full((128, 256, 3), 100, np.uint8)
    waves = [np.round(8 * np.sin(2 * np.pi * cycles * np.tile(x, 2) / 128)) for cycles in (8, 16)]

    def noise(pixels: np.ndarray, codes: np.ndarray) -> np.ndarray:
        assert (codes == 1).all()  # every segment carries noise
        return (pixels + (waves[0] + waves[1]).astype(int)[None, :, None]).astype(np.uint8)

    photographs = Segmented([flat], [np.tile(np.arange(256) // 32, (128, 1))])
    taken = np.zeros((128, 128, 3), bool)
    monkeypatch.setattr(detect_patterns, "find_peaks", lambda spectrum: taken)
    monkeypatch.setattr(detect_patterns, "without_local_peaks", lambda pixels: 100 + (pixels - 100.0) / 2)
    left = left_by_notches(Candidate("two waves", noise), photographs)
    assert left == {"left_by_notch": 1, "left_by_local_notch": 0.25}
    taken[0, [16, -16]] = True
    left = left_by_notches(Candidate("two waves", noise), photographs)
    assert left["left_by_notch"] == pytest.approx(0.5, abs=0.02)


def test_spreads_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patterns vary by them, and figures of other spreads are not mixed with theirs."""
    asked: list[Question] = []

    def measured(question: Question, options: Detecting, *, progress: object, what: str) -> list[Window]:
        asked.append(question)
        return [Window(50, 0.25, 0.5)]

    monkeypatch.setattr(detect_patterns, "time_to_detect", measured)
    command = ["--data", str(mini_bsds(tmp_path / "bsds")), "--out", str(tmp_path / "found.json")]
    assert main(["code2", *command, "--period-spread", "0.1", "--direction-spread", "0"]) == 0
    pixels, codes = asked[0].visit(0, np.random.default_rng(1))
    photo = Segmented.read(tmp_path / "bsds", SILENT).images[0]
    narrow = replace(BOOK, patterns=(BOOK.patterns[1],), period_spread=0.1, direction_spread=0.0)
    assert np.array_equal(pixels, apply_codes(photo, codes, narrow, KEY, BUDGET)) and (codes == 1).any()
    assert main(["code2", *command]) == 2
    drifting = [*command[:-1], str(tmp_path / "drift.json"), "--drift-turns", "0.7", "--drift-cell", "8"]
    assert main(["code2", *drifting]) == 0
    pixels, codes = asked[1].visit(0, np.random.default_rng(1))
    winding = replace(BOOK, patterns=(BOOK.patterns[1],), drift_turns=0.7, drift_cell=8.0)
    assert np.array_equal(pixels, apply_codes(photo, codes, winding, KEY, BUDGET)) and (codes == 1).any()
    assert main(["code2", *drifting[:-1], "9"]) == 2


@pytest.mark.parametrize(
    ("option", "value"),
    [("--period-spread", "1"), ("--direction-spread", "nan"), ("--drift-turns", "-1"), ("--drift-cell", "3")],
)
def test_spreads_that_no_pattern_can_have(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["code1", option, value]) == 2
    assert option in capsys.readouterr().err


def test_grey_photographs_get_the_codes_of_grey_images(tmp_path: Path) -> None:
    root = mini_bsds(tmp_path)
    photographs, coloured = (Segmented.read(root, SILENT, grey=grey) for grey in (True, False))
    pixels, codes = photographs.question(candidate("code1", BUDGET)).visit(0, np.random.default_rng(1))
    grey = photographs.images[0]
    assert (abs(grey - (coloured.images[0] @ [0.299, 0.587, 0.114])[..., None]) <= 1).all()
    change = pixels.astype(int) - grey
    assert set(np.unique(change[codes == 1])) <= {-8, 8} and (change == change[..., :1]).all()
    flat = candidate("tint", BUDGET).noise(grey, codes).astype(int) - grey
    assert (flat[codes == 1] == 8).all()
