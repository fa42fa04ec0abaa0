"""Long sequences of which memory holds a few bytes an item: each item is read, or made, when it is asked for.

A run over a million images lists, plans, records and tells each of them. What these steps know of an image lies in
temporary files meanwhile, and memory holds where.
"""

from __future__ import annotations

import heapq
import json
import tempfile
import threading
import weakref
from abc import abstractmethod
from array import array
from collections import deque
from collections.abc import Callable, Hashable, ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from functools import cached_property
from itertools import groupby, islice, pairwise
from operator import itemgetter
from typing import Any, TypeVar, overload

from unseg.errors import UserError

K = TypeVar("K")
T = TypeVar("T")
NONE = -1
_DECODER = json.JSONDecoder()
IN_MEMORY = 1 << 16  # bytes of items that are not worth a file
SORTED_AT_A_TIME = 2048  # items whose keys are in memory together


class Lazy(Sequence[T]):
    """A sequence whose items are made when they are asked for. Slices of it are such sequences, too."""

    @abstractmethod
    def at(self, index: int) -> T:
        """Returns an item. index: from 0 to before the length."""

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> Made[T]: ...

    def __getitem__(self, index: int | slice) -> T | Made[T]:
        if isinstance(index, slice):
            return Made(range(len(self))[index], self.at)
        return self.at(range(len(self))[index])

    def __iter__(self) -> Iterator[T]:
        return map(self.at, range(len(self)))

    def __eq__(self, other: object) -> bool:
        """Returns whether another sequence, of any kind, has the same items."""
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(one == same for one, same in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment] # what equals a list is not hashed, as a list is not

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:3]))
        return f"<{len(self)} items: {shown}{', …' if len(self) > 3 else ''}>"


class Made(Lazy[T]):
    """What a function makes of each of a sequence of numbers."""

    def __init__(self, numbers: Sequence[int], make: Callable[[int], T]) -> None:
        self._numbers, self._make = numbers, make

    def __len__(self) -> int:
        return len(self._numbers)

    def at(self, index: int) -> T:
        return self._make(self._numbers[index])


class Spooled(Lazy[T]):
    """Items in a temporary file without a name; a few stay in memory. Threads may share it.

    taken_apart, put_together: an item as a value that JSON can hold, and back. key: what items are sorted by later on.
    Memory holds 8 bytes an item. rises: whether the key of each item is greater than that of the one before.
    """

    def __init__(
        self,
        items: Iterable[T],
        taken_apart: Callable[[T], Any],
        put_together: Callable[[Any], T],
        key: Callable[[T], Any] | None = None,
    ) -> None:
        self._taken_apart, self._put_together, self.key = taken_apart, put_together, key
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 # open as long as the items are needed
        self._ends, self._lock, self._is_at_end = array("Q"), threading.Lock(), True
        self._close = weakref.finalize(self, self._file.close)
        self._last: tuple[int, T] | None = None  # the place and the item that were asked for last
        self._last_key: Any = None
        self.rises = key is not None
        for item in items:
            self.add(item)

    def add(self, item: T) -> None:
        """Adds an item at the end; UserError where the disk of temporary files takes it not."""
        data = json.dumps(self._taken_apart(item)).encode()
        with self._lock:
            end = self._ends[-1] if self._ends else 0
            try:
                if not self._is_at_end:
                    self._file.seek(end)
                self._file.write(data)
            except OSError as error:
                raise UserError(
                    f"the folder of temporary files takes no more of them ({error.strerror or error}); make room in it,"
                    " or name another one in the variable TMPDIR"
                ) from error
            self._is_at_end = True
            self._ends.append(end + len(data))
        if self.rises and self.key is not None:
            before, self._last_key = self._last_key, self.key(item)
            self.rises = len(self._ends) == 1 or before < self._last_key

    def __len__(self) -> int:
        return len(self._ends)

    def at(self, index: int) -> T:
        last = self._last
        if last is not None and last[0] == index:
            return last[1]
        start, end = self._ends[index - 1] if index else 0, self._ends[index]
        with self._lock:
            self._is_at_end = False
            self._file.seek(start)
            data = self._file.read(end - start)
        item = self._put_together(_DECODER.raw_decode(data.decode())[0])
        self._last = index, item
        return item


class Places:
    """Finds the place of an item in a sequence by the item's hash: 18 to 36 bytes each.

    Items of one hash need not be equal.
    """

    def __init__(self, items: Iterable[Hashable] = ()) -> None:
        self._count = 0
        self._empty(16)
        for place, item in enumerate(items):
            self.add(item, place)

    def _empty(self, size: int) -> None:
        self._hashes, self._places = array("q", bytes(8 * size)), array("i", [NONE]) * size

    def add(self, item: Hashable, place: int) -> None:
        """Adds an item. place: from 0."""
        if 3 * self._count >= 2 * len(self._places):
            before = zip(self._hashes, self._places, strict=True)
            self._empty(2 * len(self._places))
            for one, at in before:
                if at != NONE:
                    self._put(one, at)
        self._put(hash(item), place)
        self._count += 1

    def _put(self, wanted: int, place: int) -> None:
        slot = self._slots(wanted)
        self._hashes[slot], self._places[slot] = wanted, place

    def _slots(self, wanted: int) -> int:
        """Returns the first free slot from that of a hash on."""
        last = len(self._places) - 1
        slot = wanted & last
        while self._places[slot] != NONE:
            slot = (slot + 1) & last
        return slot

    def of(self, item: Hashable) -> Iterator[int]:
        """Yields the places at which an item may be: whoever asks looks at each."""
        wanted, last = hash(item), len(self._places) - 1
        slot = wanted & last
        while self._places[slot] != NONE:
            if self._hashes[slot] == wanted:
                yield self._places[slot]
            slot = (slot + 1) & last


class Keyed(Mapping[K, T]):
    """The last of the items of each key, in the order of the keys. Memory holds no item."""

    def __init__(self, items: Lazy[T], key: Callable[[T], K]) -> None:
        self._key = key
        self.in_order: Made[T] = Made(order_of(items, key, last_only=True), items.at)

    def __len__(self) -> int:
        return len(self.in_order)

    def __iter__(self) -> Iterator[K]:
        return map(self._key, self.in_order)

    @cached_property
    def _places(self) -> Places:
        return Places(self)

    def __getitem__(self, key: K) -> T:
        for place in self._places.of(key) if len(self) else ():
            item = self.in_order.at(place)
            if self._key(item) == key:
                return item
        raise KeyError(key)

    def values(self) -> ValuesView[T]:
        return _Values(self)

    def items(self) -> ItemsView[K, T]:
        return _Items(self)


def in_order(mapping: Mapping[K, T]) -> Sequence[T]:
    """Returns the values of a mapping in the order of its keys."""
    if isinstance(mapping, Keyed):
        return mapping.in_order
    return [value for _, value in sorted(mapping.items(), key=itemgetter(0))]


class _Values(ValuesView[T]):
    _mapping: Keyed[Any, T]

    def __iter__(self) -> Iterator[T]:
        return iter(self._mapping.in_order)


class _Items(ItemsView[K, T]):
    _mapping: Keyed[K, T]

    def __iter__(self) -> Iterator[tuple[K, T]]:
        return zip(self._mapping, self._mapping.in_order, strict=True)


def order_of(items: Sequence[T], key: Callable[[T], Any], last_only: bool = False) -> Sequence[int]:
    """Returns the places of items in the order of their keys, equal ones in their own, a few keys at a time.

    last_only: of items with equal keys, only the last.
    """
    if isinstance(items, Spooled) and items.rises and items.key is key:
        return range(len(items))
    parts: list[Sequence[int]] = []
    rises, before, left = True, list[Any](), iter(items)
    for start in range(0, len(items), SORTED_AT_A_TIME):
        keys = [key(item) for item in islice(left, SORTED_AT_A_TIME)]
        if _rises(keys, strictly=last_only):
            parts.append(range(start, start + len(keys)))
        else:
            rises = False
            parts.append(array("Q", (start + place for place in sorted(range(len(keys)), key=keys.__getitem__))))
        rises = rises and _rises([*before, keys[0]], strictly=last_only)
        before = keys[-1:]
    if rises:
        return range(len(items))
    merged: Iterable[int] = heapq.merge(*parts, key=lambda place: key(items[place]))
    if last_only:
        merged = (deque(same, 1)[0] for _, same in groupby(merged, key=lambda place: key(items[place])))
    return array("Q", merged)


def _rises(keys: Sequence[Any], strictly: bool) -> bool:
    if strictly:
        return all(one < other for one, other in pairwise(keys))
    return not any(other < one for one, other in pairwise(keys))
