"""An S3 server on this machine's loopback, by moto, for tests of what lies in stores."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
import pytest
from moto.server import ThreadedMotoServer

from unseg.storage import store_library

BUCKET = "unseg-test"
SECRET = "a-secret-that-nobody-may-print"


@contextmanager
def served() -> Iterator[Any]:
    """Runs the server, with an empty bucket, and returns the file system that speaks with it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
            ("AWS_ACCESS_KEY_ID", "an-id"),
            ("AWS_SECRET_ACCESS_KEY", SECRET),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ):
            patch.setenv(name, value)
        store_library._driver.cache_clear()
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        files = fsspec.filesystem("s3", use_listings_cache=False)
        files.mkdir(f"s3://{BUCKET}")
        try:
            yield files
        finally:
            files.rm(f"s3://{BUCKET}", recursive=True)  # what it holds outlives the server, in this process
            store_library._driver.cache_clear()
            fsspec.get_filesystem_class("s3").clear_instance_cache()
            server.stop()
