"""Threads that work on large things wait for room, which all of them share."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from unseg.compute.in_flight import InFlight


def most_at_a_time(limit: int, amounts: list[int]) -> int:
    """How much was being worked on at most, in eight threads."""
    room, now, most, lock = InFlight(limit), 0, 0, threading.Lock()

    def work(amount: int) -> None:
        nonlocal now, most
        with room.room_for(amount):
            with lock:
                now += amount
                most = max(most, now)
            time.sleep(0.03)  # the others come meanwhile, if they may
            with lock:
                now -= amount

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, amounts))
    return most


def test_no_more_than_the_limit_is_worked_on() -> None:
    assert most_at_a_time(10, [4] * 16) == 8
    assert most_at_a_time(100, [4] * 8) == 32  # nobody waits without need


def test_what_is_larger_than_the_limit_has_its_turn_alone() -> None:
    assert most_at_a_time(10, [3, 25, 3, 3, 25]) == 25


def test_room_is_given_back_where_work_fails() -> None:
    room = InFlight(1)
    with pytest.raises(KeyError), room.room_for(1):
        raise KeyError
    with room.room_for(1):
        pass
