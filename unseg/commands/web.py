"""unseg web: the local page, and the HTTP interface behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unseg.compute.interrupts import in_good_order
from unseg.errors import check_installed
from unseg.storage.image_limits import MAX_PIXELS

NEEDED = ("starlette", "uvicorn", "python_multipart")
STOPPED = "stopped; everything that was uploaded is removed"


def web(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 0,
    key: Annotated[
        Path | None,
        typer.Option(help="File of the key of all noise. Default: every tab draws its own, and offers it as a file."),
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
    max_megapixels: Annotated[float, typer.Option(help="Refuse larger pictures.")] = MAX_PIXELS / 1e6,
    auto_model: Annotated[
        str | None, typer.Option(help="Network of rembg behind Find objects; as for unseg protect --masks auto.")
    ] = None,
) -> None:
    """Open a page on this machine that protects photographs: drop them, mark the objects, compare, download.

    Nothing leaves this machine: the server listens on 127.0.0.1 alone, and only whoever has the printed address is
    served. What is uploaded is removed when its tab is closed, and with the server. The same address takes pictures
    from programs: POST /protect, described at its page api. Ctrl-C ends it (exit code 130); 2 it could not start, one
    line says why.
    """
    check_installed("unseg web", NEEDED, "web")
    from unseg.storage.key_file import read_key
    from unseg.web.server import ServerOptions, serve

    options = ServerOptions(None if key is None else read_key(key), int(max_megapixels * 1e6), auto_model)
    try:
        with in_good_order():
            serve(port, options, lambda address, invitation: _tell(address, invitation, no_browser))
    except KeyboardInterrupt as stop:
        raise type(stop)(STOPPED) from None


def _tell(address: str, invitation: str, no_browser: bool) -> None:
    print(f"Open {address}", flush=True)
    print("Ctrl-C ends the server and removes what was uploaded.", flush=True)
    if not no_browser:
        import webbrowser

        webbrowser.open(invitation)
