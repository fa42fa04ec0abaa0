"""A cluster of Ray, joined or started on this machine, which tells its makers nothing and prints nothing."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TextIO, cast

from unseg.compute.threads import cores
from unseg.errors import UserError, naming_the_extra

OPTION = "--engine ray"
# Ray's processes inherit these. The last lets an actor without a GPU see none, as a driver without one does.
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1"}
ANSWERS_WITHIN = 10.0  # seconds
# How HTTP/2, over which Ray speaks, begins on either side: RFC 9113, 3.4, 4.1 and 6.5.
FRAME, SETTINGS_FRAME = 9, 4  # bytes of a frame's head; the type in it
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, SETTINGS_FRAME, 0, 0, 0, 0, 0])
STORE = 80 << 20  # bytes of Ray's object store on this machine, near its least: only names lie in it
SHORT = 24  # characters of a folder for Ray's sockets: they lie deep below it, and their names may have 107


@contextmanager
def cluster_at(address: str | None) -> Iterator[Any]:
    """Joins the cluster at an address, or starts one here where that is None, and returns Ray's module.

    A cluster that this process has joined already is taken as it is.
    """
    before = {name: os.environ.get(name) for name in SETTINGS}
    os.environ.update(SETTINGS)
    try:
        with naming_the_extra(OPTION):
            import ray
        with redirect_stdout(cast(TextIO, _WithoutRay(sys.stdout))):
            if ray.is_initialized():
                yield ray
                return
            with _joined(ray, address) if address else _started(ray):
                yield ray
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _WithoutRay:
    """A stream that drops what threads of Ray write: standard output is the table's, or JSON's."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes the text, unless a thread of Ray asks for it."""
        return len(text) if threading.current_thread().name.startswith("ray_") else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _joined(ray: Any, address: str) -> Iterator[None]:
    option = f"--ray-address {address}"
    host, _, port = address.rpartition(":")
    if address != "auto" and not (host and "/" not in host and port.isdigit()):
        raise UserError(f"{option}: give HOST:PORT of the cluster's head, such as 10.0.0.5:6379, or auto")
    try:
        if address != "auto":
            _greet(host.strip("[]"), int(port))
        _init(ray, address=address)
    except (RuntimeError, ValueError, OverflowError, OSError) as error:
        said = " ".join(str(error).split())[:160]
        raise UserError(f"{option}: no cluster of Ray could be joined there from this machine ({said})") from error
    try:
        yield
    finally:
        ray.shutdown()


def _greet(host: str, port: int) -> None:
    """Raises OSError where nobody answers, or somebody who does not as the head of a cluster: Ray asks without end."""
    with socket.create_connection((host, port), ANSWERS_WITHIN) as connection:
        if os.environ.get("RAY_USE_TLS", "0") != "0":
            return  # it speaks to those alone who have its certificate
        connection.sendall(GREETING)
        answer = connection.recv(FRAME, socket.MSG_WAITALL)
    if len(answer) < FRAME or answer[3] != SETTINGS_FRAME:
        raise OSError("who answers there is no head of a cluster; is the port that of another service?")


@contextmanager
def _started(ray: Any) -> Iterator[None]:
    usual = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="unseg-ray-", dir=usual if len(usual) <= SHORT else "/tmp")
    try:
        try:
            _init(ray, num_cpus=cores(), object_store_memory=STORE, include_dashboard=False, _temp_dir=folder)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            said = " ".join(str(error).split())[:160]
            raise UserError(f"{OPTION}: Ray does not start on this machine ({said})") from error
        try:
            yield
        finally:
            ray.shutdown()
    finally:
        shutil.rmtree(Path(folder), ignore_errors=True)


def _init(ray: Any, **options: Any) -> None:
    """Calls `ray.init`, and gives back the handlers of signals that it replaces: an interrupt ends as without Ray."""
    handlers: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(log_to_driver=False, logging_level=logging.CRITICAL, **options)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)
