"""The application of `unseg web` without a network, and pictures for it: none square, symmetric or centred."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from unseg.web.guard import Guard
from unseg.web.server import ServerOptions, application

PORT, TOKEN = 8123, "a-token-for-tests"
HOST = f"127.0.0.1:{PORT}"
HEIGHT, WIDTH = 60, 85


@contextmanager
def client_of(folder: Path, **options: Any) -> Iterator[TestClient]:
    """A client that has the token in its address, as the page has."""
    folder.mkdir(exist_ok=True)
    guarded = Guard(application(folder, ServerOptions(**options)), TOKEN, PORT)
    with TestClient(guarded, base_url=f"http://{HOST}/{TOKEN}", raise_server_exceptions=False) as client:
        yield client


def photograph(seed: int = 1, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A bright, textured object on a darker ground, left of and above the middle."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(40, 70, (height, width, 3)).astype(np.uint8)
    rows, columns = slice(height // 6, height // 2), slice(width // 8, width // 2)
    pixels[rows, columns] = rng.integers(150, 200, pixels[rows, columns].shape)
    return pixels


def object_of(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Where that object is, H×W bool."""
    mask = np.zeros((height, width), bool)
    mask[height // 6 : height // 2, width // 8 : width // 2] = True
    return mask


def file_of(pixels: np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    """An image file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()
