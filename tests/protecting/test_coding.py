"""Codings: read from manifests and by hand, refused in one line, written as they are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unseg.errors import UserError
from unseg.method.patterns import BOOK, ONE_CODE_BOOK
from unseg.protecting.coding import Coding, coding_from, coding_of, one_object, read_coding


def test_a_coding_comes_back_from_its_json() -> None:
    for coding in (coding_of({3: 10, 7: 50, 0: 12}, 0, "why"), one_object("why")):
        assert coding_from(json.loads(json.dumps(coding.as_json())), "x") == coding


def test_a_coding_is_read_from_a_manifest_and_from_json_by_hand(tmp_path: Path) -> None:
    coding = coding_of({3: 10, 7: 50}, 3, "why")
    manifest = tmp_path / "unseg-manifest.jsonl"
    manifest.write_text(json.dumps({"settings": {}, "codes": coding.as_json()}) + '\n{"input": "a"}\n')
    assert read_coding(manifest) == coding
    marked = tmp_path / "marked.json"
    marked.write_bytes('{"codes": {"3": 0, "7": 1}}'.encode("utf-8-sig"))
    assert read_coding(marked).codes == {3: 0, 7: 1}
    by_hand = tmp_path / "codes.json"
    by_hand.write_text('{\n "codes": {"3": 0,\n "7": 1}}')
    lowest = tmp_path / "lowest.json"
    lowest.write_text('{"codes": {"-2000000000": 1, "3": 0}}')  # of 32 bits, as a NIfTI mask may have it
    assert read_coding(lowest).codes == {-2000000000: 1, 3: 0}
    assert read_coding(by_hand).codes == {3: 0, 7: 1} and read_coding(by_hand).absent == {3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no JSON"),
        ("[1]", "holds no codes"),
        ('{"codes": {"0": 13}}', "'0': 13: give class ids, each with a code from 0"),
        ('{"codes": {"sky": 1}}', "'sky': 1: give class ids"),
        ('{"codes": {"0": 1.5}}', "give class ids"),
        ('{"codes": {"0": 0}}', "no class has a code above 0"),
        ('{"book": "other", "codes": {"0": 1}}', "of the book 'other'"),
        ('{"codes": {"1": 1, "01": 2}}', "class 1 is there twice"),
        ('{"codes": {"1": 1, "1": 2}}', "'1' is there twice"),
        ('{"codes": {"1": true}}', "'1': True: give class ids"),
        ('{"codes": {"-9223372036854775809": 1}}', "give class ids"),
        ('{"objects": "all", "codes": {"object": 5}}', "codes of one object are always"),
        ('{"objects": "some", "codes": {"1": 1}}', "objects are 'some'; give 'all' or 'by-class'"),
        ('{"settings": {}}', "this manifest holds no codes"),
    ],
)
def test_what_is_no_coding_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "codes.json").write_text(text)
    with pytest.raises(UserError, match=r"--codes .*codes\.json") as error:
        read_coding(tmp_path / "codes.json")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_coding_says_what_was_chosen() -> None:
    assert one_object("why").sentence() == "codes: one pattern on the object, none elsewhere: why"
    told = coding_of({number: 100 - number for number in range(14)}, 5, "why").sentence()
    assert told == "codes: 2 patterns for 13 classes, none for class 5: why"
    assert Coding({1: 1}, "why", BOOK).absent == frozenset()


def test_a_code_alone_has_the_book_of_its_own(tmp_path: Path) -> None:
    assert one_object("why").book == ONE_CODE_BOOK
    assert coding_of({3: 5, 8: 2}, 3, "why").book == ONE_CODE_BOOK  # one class has none
    assert coding_of({3: 5, 8: 2, 9: 1}, 3, "why").book == BOOK
    assert coding_of({3: 5, 8: 2}, None, "why").book == BOOK
    path = tmp_path / "codes.json"
    for codes, book in (({"0": 0, "5": 1, "7": 1}, ONE_CODE_BOOK), ({"0": 0, "5": 1, "7": 2}, BOOK)):
        path.write_text(json.dumps({"codes": codes}))
        assert read_coding(path).book == book
        for told in (BOOK, ONE_CODE_BOOK):
            path.write_text(json.dumps({"codes": codes, "book": told.version}))
            assert read_coding(path).book == told
        path.write_text(json.dumps({"codes": codes}))
        assert read_coding(path, BOOK).book == BOOK and read_coding(path, ONE_CODE_BOOK).book == ONE_CODE_BOOK
