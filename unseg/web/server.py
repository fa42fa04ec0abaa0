"""The server of `unseg web`: one application, on 127.0.0.1 alone, whose files are gone when it ends."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Semaphore

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool

from unseg.compute.progress import SILENT
from unseg.compute.threads import cores
from unseg.errors import UserError
from unseg.protecting.foreground_models import BY_PAGE, DEFAULT_MODEL, ForegroundModel
from unseg.storage.image_limits import MAX_PIXELS, own_size_limit, quiet_decoders
from unseg.storage.key_file import new_key
from unseg.web import http_api, routes
from unseg.web.darkroom import Darkroom
from unseg.web.guard import HOST, Guard, new_token
from unseg.web.refusals import HANDLERS
from unseg.web.tabs import Tabs
from unseg.web.workspace import workspace

LOOK_EVERY = 10.0  # seconds between looks for tabs that give no sign of life
CONNECTIONS = 64  # at a time; more get an answer that says so
CALLS = 2  # pictures of POST /protect that are worked on together; more wait, so that memory does not grow with them
GOODBYE = 2  # seconds that answers have which are on their way when the server ends


@dataclass(frozen=True)
class ServerOptions:
    """What a server may vary. key: of all noise; None: each tab draws one, and calls share another. auto_model: the
    network that proposes objects, one of `unseg.protecting.foreground_models.MODELS`; None: the default one.
    """

    key: bytes | None = None
    max_pixels: int = MAX_PIXELS
    auto_model: str | None = None


def application(folder: Path, options: ServerOptions) -> Starlette:
    """Returns the application without its guard. folder: an empty one for everything that is uploaded."""
    darkroom = Darkroom(options.max_pixels)
    foreground = ForegroundModel(options.auto_model or DEFAULT_MODEL, cores(), SILENT, BY_PAGE)
    for name in ("tabs", "calls"):
        (folder / name).mkdir()
    tabs = Tabs(folder / "tabs", darkroom, options.key)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        looking = asyncio.create_task(_close_silent(tabs))
        yield
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
        await run_in_threadpool(tabs.close_all)

    all_routes = [*routes.page_routes(), *routes.ROUTES, *http_api.ROUTES]
    app = Starlette(routes=all_routes, exception_handlers=dict(HANDLERS), lifespan=lifespan)
    app.state.shared = routes.State(tabs, darkroom, options.max_pixels, foreground)
    app.state.calls = http_api.CallOptions(
        folder / "calls", options.key or new_key(), options.max_pixels, Semaphore(CALLS), foreground
    )
    return app


async def _close_silent(tabs: Tabs) -> None:
    while True:
        await asyncio.sleep(LOOK_EVERY)
        await run_in_threadpool(tabs.close_silent)


def serve(port: int, options: ServerOptions, opened: Callable[[str, str], None]) -> None:
    """Serves until a signal ends it, which it raises as it found its handlers.

    port: 0 for a free one. opened: is told the address, token and all, once the server listens, and another address
    that leads there a single time.
    """
    with _listening(port) as listener, workspace() as folder, own_size_limit(), quiet_decoders():
        number = listener.getsockname()[1]
        token = new_token()
        app = Guard(application(folder, options), token, number)
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="on",
            log_level="warning",
            access_log=False,  # it would print the token
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=GOODBYE,
        )
        opened(f"http://{HOST}:{number}/{token}/", f"http://{HOST}:{number}/{app.invitation}")
        server = uvicorn.Server(config)
        quiet = _QuietAtTheEnd(server)
        log = logging.getLogger("uvicorn.error")
        log.addFilter(quiet)
        try:
            server.run(sockets=[listener])
        finally:
            log.removeFilter(quiet)
        if server.started:
            raise KeyboardInterrupt  # only a signal ends it, which uvicorn has kept to itself once in a while


class _QuietAtTheEnd(logging.Filter):
    """Drops what the server would say of requests that its own end cuts off."""

    def __init__(self, server: uvicorn.Server) -> None:
        super().__init__()
        self.server = server

    def filter(self, record: logging.LogRecord) -> bool:
        return not self.server.should_exit


def _listening(port: int) -> socket.socket:
    """Returns a socket that listens; connections wait there until the server takes them."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if hasattr(socket, "SO_REUSEADDR") and socket.SO_REUSEADDR and not hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(CONNECTIONS)
    except OSError as error:
        listener.close()
        raise UserError(
            f"--port {port}: cannot be used ({error.strerror or error}); leave it out for a free one"
        ) from error
    return listener
