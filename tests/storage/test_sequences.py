"""Long sequences that lie in temporary files: the same items, in the same order, as lists and dicts would hold."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable

import pytest

from unseg.errors import UserError
from unseg.storage import sequences
from unseg.storage.sequences import Keyed, Made, Places, Spooled, in_order, order_of


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that takes more than a few bytes goes to the disk, and few keys are sorted at a time."""
    monkeypatch.setattr(sequences, "IN_MEMORY", 10)
    monkeypatch.setattr(sequences, "SORTED_AT_A_TIME", 7)


def spooled(words: Iterable[str]) -> Spooled[str]:
    return Spooled(words, lambda word: [word], lambda values: values[0], str.lower)


def words(count: int, seed: int) -> list[str]:
    drawn = random.Random(seed)
    return ["".join(drawn.choices("abCé\udcff/", k=drawn.randint(0, 3))) for _ in range(count)]


def test_items_come_back_in_any_order_also_while_more_are_added() -> None:
    given = words(60, 1)
    kept = spooled(given[:40])
    assert kept == given[:40] and list(kept) == given[:40] and kept != given[:39]
    assert [kept[place] for place in (39, 0, -1, 17)] == [given[place] for place in (39, 0, 39, 17)]
    for word in given[40:]:
        kept.add(word)
        assert kept[3] == given[3]
    assert list(kept) == given and kept[50:4:-3] == given[50:4:-3] and kept[5:5] == []
    with pytest.raises(IndexError):
        kept[60]


def test_threads_read_their_own_items() -> None:
    kept, wrong = Spooled(range(500), str, int), []

    def read(start: int) -> None:
        wrong.extend(place for place in range(start, 500, 3) if kept[place] != place)

    threads = [threading.Thread(target=read, args=(start,)) for start in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_full_disk_of_temporary_files_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = spooled(["a"])

    def full(data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept._file, "write", full)
    with pytest.raises(UserError, match=r"takes no more of them \(No space left on device\); .* TMPDIR"):
        kept.add("b")


@pytest.mark.parametrize("count", [0, 1, 6, 7, 8, 50])
def test_items_are_sorted_as_python_sorts_them(count: int) -> None:
    given = words(count, count)
    expected = sorted(range(count), key=lambda place: given[place].lower())  # stable, as the order must be
    assert list(order_of(given, str.lower)) == expected
    assert list(order_of(spooled(given), str.lower)) == expected
    last = {given[place].lower(): place for place in range(count)}
    assert list(order_of(given, str.lower, last_only=True)) == [last[key] for key in sorted(last)]
    rising = sorted(set(map(str.lower, given)))
    assert order_of(spooled(rising), str.lower) == range(len(rising))


def test_the_last_item_of_a_key_counts() -> None:
    given = words(80, 3)
    expected = {word.lower(): word for word in given}
    found = Keyed(spooled(given), str.lower)
    assert found == expected and list(found) == sorted(expected) and len(found) == len(expected) < 80
    assert list(found.items()) == sorted(expected.items()) and in_order(found) == in_order(expected)
    assert list(found.values()) == [expected[key] for key in sorted(expected)]
    assert found.get("no such word") is None and "no such word" not in found
    assert Keyed(spooled([]), str.lower).get("a") is None


def test_places_are_found_also_among_items_of_one_hash() -> None:
    given = list(dict.fromkeys(words(200, 4)))
    places = Places(given)
    assert all(place in places.of(word) for place, word in enumerate(given)) and list(places.of("no such word")) == []

    class Alike(str):
        def __hash__(self) -> int:
            return -5

    alike = Places(map(Alike, given))
    assert sorted(alike.of(Alike("x"))) == list(range(len(given)))


def test_made_items_are_made_when_they_are_asked_for() -> None:
    asked: list[int] = []

    def make(number: int) -> int:
        asked.append(number)
        return 2 * number

    made = Made(range(1_000_000_000), make)
    assert len(made) == 1_000_000_000 and made[10:30:7][1] == 34 and made[-1] == 1_999_999_998
    assert asked == [17, 999_999_999]
