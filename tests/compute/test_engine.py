"""The actors of an engine, with a stand-in for Ray: parts on their way, lost actors, and what the user is told."""

from __future__ import annotations

import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.told_progress import Told
from unseg.compute import engine as engines
from unseg.compute.engine import ATTEMPTS, Crew, Engine, Part, Work
from unseg.compute.ray_cluster import _WithoutRay, cluster_at
from unseg.errors import UserError


class RayError(Exception):
    """As Ray's."""


class RayActorError(RayError):
    """As Ray's."""


class FakeRay:
    """Runs a call when its answer is awaited, the oldest first. die: which calls, counted from 1, end their actor."""

    exceptions = SimpleNamespace(RayError=RayError, RayActorError=RayActorError)

    def __init__(self, cores: int = 3, die: tuple[int, ...] = ()) -> None:
        self.cores, self.die = cores, die
        self.calls: deque[list[Any]] = deque()
        self.killed: list[Any] = []
        self.hired = self.done = self.most = 0

    def put(self, value: bytes) -> bytes:
        return value

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": self.cores, "GPU": 1}

    def remote(self, cls: type) -> Any:
        def hire(*arguments: Any) -> Any:
            self.hired += 1
            actor = cls(*arguments)
            return SimpleNamespace(**{name: self._method(getattr(actor, name)) for name in ("ready", "do", "close")})

        return SimpleNamespace(options=lambda **options: SimpleNamespace(remote=hire))

    def _method(self, call: Callable[..., Any]) -> Any:
        def remote(*arguments: Any) -> int:
            self.calls.append([call, arguments])
            return id(self.calls[-1])

        return SimpleNamespace(remote=remote)

    def wait(self, references: list[int], num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        self.most = max(self.most, sum(call[0].__name__ == "do" for call in self.calls))
        oldest = next(id(call) for call in self.calls if id(call) in references)
        return [oldest], [reference for reference in references if reference != oldest]

    def get(self, reference: int) -> Any:
        call = next(call for call in self.calls if id(call) == reference)
        self.calls.remove(call)
        self.done += call[0].__name__ == "do"
        if call[0].__name__ == "do" and self.done in self.die:
            raise RayActorError("its node has died")
        return call[0](*call[1])

    def kill(self, actor: Any) -> None:
        self.killed.append(actor)


@contextmanager
def doubled(common: bytes) -> Iterator[Work]:
    """A work that doubles a number, and refuses 13."""

    def work(part: bytes) -> int:
        if part == b"13":
            raise UserError("13 is not to be doubled")
        return 2 * int(part)

    yield work


@contextmanager
def refused(common: bytes) -> Iterator[Work]:
    raise UserError("the generator is not there")
    yield


def results(ray: FakeRay, numbers: list[int], engine: Engine = Engine(), start: Any = doubled) -> list[int]:  # noqa: B008  # frozen
    parts = (Part(f"part {number}", str(number).encode()) for number in numbers)
    return list(Crew(ray, engine, Told()).results(start, b"", parts, len(numbers)))


def test_every_part_is_answered_once_and_no_more_are_on_their_way_than_actors() -> None:
    ray = FakeRay(cores=3)
    assert sorted(results(ray, list(range(10)))) == [2 * number for number in range(10)]
    assert (ray.hired, ray.most, len(ray.killed)) == (3, 3, 3)


@pytest.mark.parametrize(("most", "numbers", "hired"), [(2, 9, 2), (None, 2, 2), (7, 20, 7)])
def test_as_many_actors_as_are_wanted_and_needed(most: int | None, numbers: int, hired: int) -> None:
    ray = FakeRay(cores=3)
    results(ray, list(range(20, 20 + numbers)), Engine(most=most))
    assert ray.hired == hired


@pytest.mark.parametrize(("cores", "gpus", "size"), [(1, 0, 3), (2, 0, 1), (1, 1, 1), (4, 0, 1)])
def test_the_size_is_what_there_is_room_for(cores: int, gpus: int, size: int) -> None:
    assert Crew(FakeRay(cores=3), Engine(), Told()).size(cores, gpus) == size


def test_what_a_lost_actor_was_doing_is_done_by_another() -> None:
    ray = FakeRay(cores=2, die=(1, 4))
    assert sorted(results(ray, [1, 2, 3, 4, 5])) == [2, 4, 6, 8, 10]
    assert ray.hired == 4 and len(ray.killed) == 4


def test_a_part_that_no_actor_survives_ends_the_run() -> None:
    ray = FakeRay(cores=1, die=tuple(range(1, ATTEMPTS + 1)))
    with pytest.raises(UserError, match=rf"actors are lost with part 1, {ATTEMPTS} times \(its node has died\)"):
        results(ray, [1, 2])
    assert ray.hired == ATTEMPTS
    fewer = FakeRay(cores=1, die=tuple(range(1, ATTEMPTS)))
    assert results(fewer, [1, 2]) == [2, 4]


@pytest.mark.parametrize(
    ("numbers", "start", "told"), [([1, 13, 2], doubled, "13 is not"), ([1], refused, "is not th")]
)
def test_what_an_actor_refuses_ends_the_run(numbers: list[int], start: Any, told: str) -> None:
    ray = FakeRay(cores=1)
    with pytest.raises(UserError, match=told):
        results(ray, numbers, start=start)
    assert len(ray.killed) == ray.hired == 1


def test_a_machine_with_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines.Actor, "ready", lambda actor: ("ready", "0.1.9"))
    with pytest.raises(UserError, match=r"--engine ray: a machine of the cluster has unseg 0\.1\.9, this one "):
        results(FakeRay(), [1])


def test_no_room_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ray, told = FakeRay(cores=0), Told()
    waits = iter([True, True, False, False, False])
    wait = ray.wait
    monkeypatch.setattr(ray, "wait", lambda *given, **more: ([], []) if next(waits) else wait(*given, **more))
    crew = Crew(ray, Engine(), told)
    assert list(crew.results(doubled, b"", iter([Part("a", b"4")]), 1)) == [8]
    assert told.sentences == ["--engine ray: the cluster has no room for an actor now; this waits until it has"]


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n", b"-ERR", None])
def test_another_server_is_no_cluster(answer: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dashboard's port, for one. None: who never says a word."""
    monkeypatch.setattr("unseg.compute.ray_cluster.ANSWERS_WITHIN", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as stack:

        def serve() -> None:
            connection = stack.enter_context(server.accept()[0])
            if answer is not None:
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)

        threading.Thread(target=serve, daemon=True).start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        told = f"--ray-address {address}: no cluster of Ray could be joined there"
        with pytest.raises(UserError, match=told), cluster_at(address):
            pass


def test_threads_of_ray_print_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    stream = _WithoutRay(sys.stdout)
    thread = threading.Thread(target=lambda: print("noise", file=stream), name="ray_listen_error_messages")
    thread.start()
    thread.join()
    print("a table", file=stream)
    assert capsys.readouterr().out == "a table\n"
