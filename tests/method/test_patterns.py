"""Patterns: the signs are those of their formulas, the key and the image vary them, and nothing else does."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest

from tests.support.code_signs import sign_map
from unseg.method import patterns
from unseg.method.patterns import (
    BOOK,
    BOOKS,
    ONE_CODE_BOOK,
    CodeBook,
    Grating,
    ImagePatterns,
    Pattern,
    book_of,
    image_digest,
)

KEY, DIGEST = bytes(range(32)), b"sixteen bytes it"


def still(*gratings: Grating, grey: Grating | None = None) -> CodeBook:
    """Returns a book of gratings that nothing varies but their phases."""
    made = tuple(Pattern((1, -1, 1), grating, grey or grating) for grating in gratings)
    return replace(BOOK, patterns=made, period_spread=0.0, direction_spread=0.0, drift_turns=0.0)


def signs(book: CodeBook, height: int, width: int, **given: bool) -> list[list[int]]:
    return sign_map(book, 1, height, width, key=KEY, digest=DIGEST, **given).tolist()


@pytest.fixture
def no_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImagePatterns, "_random", lambda *_: bytes(64))


@pytest.mark.usefixtures("no_phases")
def test_stripes_are_plus_for_the_first_half_of_their_period_its_start_included() -> None:
    assert signs(still(Grating("stripes", 0.0, (4.0,))), 2, 6) == [[1, 1, -1, -1, 1, 1]] * 2
    downwards = signs(still(Grating("stripes", math.pi / 2, (4.0,))), 5, 2)
    assert downwards == [[1, 1], [1, 1], [-1, -1], [-1, -1], [1, 1]]


@pytest.mark.usefixtures("no_phases")
def test_diagonal_stripes_follow_the_sum_of_the_coordinates() -> None:
    diagonal = signs(still(Grating("stripes", math.pi / 4, (8.2 / math.sqrt(2),))), 3, 5)
    assert diagonal == [[1, 1, 1, 1, 1], [1, 1, 1, 1, -1], [1, 1, 1, -1, -1]]  # x + y up to 4 is half of 8.2


@pytest.mark.usefixtures("no_phases")
def test_checkers_are_plus_where_both_sines_have_one_sign() -> None:
    checkers = signs(still(Grating("checkers", 0.1, (4.0,))), 4, 4)  # turned a little: no pixel lies on an edge
    sines = [[math.sin(math.pi / 2 * along(0.1, x, y)) for x in range(4)] for y in range(4)]
    across = [[math.sin(math.pi / 2 * along(0.1 + math.pi / 2, x, y)) for x in range(4)] for y in range(4)]
    assert checkers == [
        [1 if one * other >= 0 else -1 for one, other in zip(*rows, strict=True)]
        for rows in zip(sines, across, strict=True)
    ]
    assert checkers[1][1] == 1 and checkers[1][3] == -1


def along(direction: float, x: int, y: int) -> float:
    return x * math.cos(direction) + y * math.sin(direction)


@pytest.mark.usefixtures("no_phases")
def test_two_periods_are_the_sign_of_their_sum() -> None:
    row = signs(still(Grating("stripes", 0.0, (24.0, 6.0))), 1, 24)[0]
    total = [math.sin(2 * math.pi * x / 24) + math.sin(2 * math.pi * x / 6) for x in range(24)]
    assert [value for value, exact in zip(row, total, strict=True) if abs(exact) > 0.05] == [
        1 if exact >= 0 else -1 for exact in total if abs(exact) > 0.05
    ]
    assert row[10] == -1 and row[14] == 1  # not those of the longer period alone


@pytest.mark.parametrize(("shape", "size"), [("stripes", (61, 97)), ("checkers", (97, 41)), ("stripes", (40, 2500))])
def test_signs_are_those_of_the_formula_in_floats(shape: patterns.Shape, size: tuple[int, int]) -> None:
    """An independent computation: floats, sines, the same words of the same hash. Pixels on an edge may differ."""
    height, width = size
    varied = {"period_spread": 0.15, "direction_spread": 0.15, "octaves_from": 2048, "octave_ratio": 4.0}
    book = replace(still(Grating(shape, 0.7, (13.0,))), **varied)
    found = sign_map(book, 1, height, width, key=KEY, digest=DIGEST)
    message = book.version.encode() + b"\0code 1\0" + DIGEST
    words = np.frombuffer(hashlib.blake2b(message, key=KEY, person=b"unseg-patterns").digest(), "<u4")
    shares = words / 2**32
    direction = 0.7 + (2 * shares[0] - 1) * 0.15
    period = 13 * max(1, max(size) / 724) * (1 + (2 * shares[1] - 1) * 0.15)
    y, x = np.mgrid[:height, :width]
    total, phases = np.zeros(size), iter((words[2:] % 2**16) / 2**16)
    for octave in (period, period / 4)[: 2 if max(size) > 2048 else 1]:
        wave = np.ones(size)
        for turn in (0,) if shape == "stripes" else (0, math.pi / 2):
            place = (x * math.cos(direction + turn) + y * math.sin(direction + turn)) / octave
            wave *= np.sin(2 * np.pi * (place + next(phases)))
        total += wave
    clear = np.abs(total) > 0.03
    assert clear.mean() > 0.9
    assert np.array_equal(found[clear], np.where(total >= 0, 1, -1)[clear])


def test_another_key_image_code_or_version_draws_other_signs_and_equal_ones_the_same() -> None:
    def drawn(code: int = 1, key: bytes = KEY, digest: bytes = DIGEST, book: CodeBook = BOOK) -> np.ndarray:
        return sign_map(book, code, 83, 131, key=key, digest=digest)

    first = drawn()
    assert np.array_equal(first, drawn())
    renamed = replace(BOOK, version="another")
    same_form = replace(BOOK, patterns=(BOOK.patterns[0], BOOK.patterns[0]))
    others = [drawn(key=bytes(32)), drawn(digest=b"another"), drawn(book=renamed), drawn(2, book=same_form)]
    for other in others:
        assert 0.2 < (first != other).mean() < 0.8


def test_a_part_is_that_part_of_the_whole() -> None:
    whole = ImagePatterns(BOOK, 70, 110, key=KEY, digest=DIGEST).signs(4, slice(0, 70), slice(0, 110))
    part = ImagePatterns(BOOK, 70, 110, key=KEY, digest=DIGEST).signs(4, slice(7, 70), slice(31, 90))
    assert np.array_equal(part, whole[7:70, 31:90])


@pytest.mark.parametrize("side", [300, 724, 1448, 2000])
def test_periods_grow_with_images_larger_than_people_train_on(side: int) -> None:
    found = sign_map(still(Grating("stripes", 0.0, (16.0,))), 1, 2, side, key=KEY, digest=DIGEST)[0]
    edges = int((found[1:] != found[:-1]).sum())
    assert edges == pytest.approx(2 * side / (16 * max(1, side / 724)), abs=1)


def test_large_images_have_both_the_long_and_a_finer_wave() -> None:
    book = still(Grating("stripes", 0.0, (16.0,)))
    row = sign_map(book, 1, 2, 4344, key=KEY, digest=DIGEST)[0].astype(float)  # six times 724: 96 pixels and 24
    strengths = np.abs(np.fft.rfft(row)) / len(row)
    long, fine = strengths[round(4344 / 96)], strengths[round(4344 / 24)]
    assert long > 0.3 and fine > 0.3
    one_wave = np.abs(np.fft.rfft(sign_map(book, 1, 2, 2048, key=KEY, digest=DIGEST)[0].astype(float))) / 2048
    assert one_wave.max() > 0.5


def test_drift_bends_the_stripes() -> None:
    straight = still(Grating("stripes", 0.0, (16.0,)))
    for book, is_straight in ((straight, True), (replace(straight, drift_turns=0.35), False)):
        found = sign_map(book, 1, 200, 300, key=KEY, digest=DIGEST)
        assert (found == found[0]).all() == is_straight


def test_grey_twins_have_their_own_geometry() -> None:
    book = still(Grating("stripes", 0.0, (16.0,)), grey=Grating("stripes", math.pi / 2, (8.0,)))
    colour, grey = np.array(signs(book, 64, 64)), np.array(signs(book, 64, 64, grey=True))
    assert (colour == colour[0]).all() and (grey == grey[:, :1]).all() and (grey != grey[0]).any()


def test_the_first_code_has_waves_of_eleven_pixels_in_colour_and_of_five_in_grey() -> None:
    """Half an edge a pixel of the wave, along a row; a key stretches waves by up to 15 % and turns them a little."""
    for grey, along in ((False, 16.0), (True, 5.0)):
        found = sign_map(BOOK, 1, 60, 700, key=KEY, digest=DIGEST, grey=grey)
        edges = (found[:, 1:] != found[:, :-1]).sum(axis=1).mean()
        assert 2 * 700 / edges == pytest.approx(along, rel=0.35 if not grey else 0.2)


def test_the_book_in_use_has_twelve_patterns_that_all_differ_in_colour_and_in_grey() -> None:
    assert BOOK.codes == 12
    assert len({(pattern.axis, pattern.colour) for pattern in BOOK.patterns}) == 12
    assert len({pattern.grey for pattern in BOOK.patterns}) == 12


@pytest.mark.parametrize("code", [0, 13])
def test_a_code_without_a_pattern_is_an_error(code: int) -> None:
    with pytest.raises(ValueError, match=f"code {code}: the book .* 1 to 12"):
        sign_map(BOOK, code, 5, 7, key=KEY, digest=DIGEST)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 40_000)])
def test_images_of_any_size_have_signs(size: tuple[int, int]) -> None:
    for code in (1, 4):
        assert sign_map(BOOK, code, *size, key=KEY, digest=DIGEST).shape == size


def test_a_digest_tells_samples_shapes_and_depths_apart() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    other = image.copy()
    other[20, 3, 1] ^= 1
    flat = image.reshape(30, 40, 3)
    deep = np.frombuffer(image.tobytes(), np.uint16).reshape(40, 15, 3)
    digests = {image_digest(each) for each in (image, other, flat, deep)}
    assert len(digests) == 4
    assert image_digest(image) == image_digest(np.asfortranarray(image)) == image_digest(image[:, ::-1][:, ::-1])
    assert len(image_digest(np.zeros((3000, 2000, 3), np.uint8))) == 16


def test_a_code_alone_varies_more() -> None:
    assert [book_of(codes) for codes in ([0, 1], [1], [], [0, 5, 5, 255])] == [ONE_CODE_BOOK] * 4
    assert [book_of(codes) for codes in ([0, 1, 2], [3, 1], {7: 2, 1: 1}.values())] == [BOOK] * 3
    assert ONE_CODE_BOOK.patterns == BOOK.patterns and list(BOOKS.values()) == [BOOK, ONE_CODE_BOOK]
    assert ONE_CODE_BOOK.period_spread > BOOK.period_spread
    assert ONE_CODE_BOOK.direction_spread > BOOK.direction_spread
