"""The libraries of stores, by fsspec: what lies at a place, and their many errors as one kind, without secrets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from unseg.errors import UserError, naming_the_extra

PIECE, PIECES = 2**24, 2  # bytes of a large file that are in memory at a time, and how many times for each file
MOST_PIECES = 10_000  # of an object

# What the names of faults mean that users can mend.
IN_WORDS = {
    "PermissionError": "the store refuses access; look at the credentials in use, and at what they allow",
    "NoCredentialsError": "no credentials are found, neither in AWS_ACCESS_KEY_ID nor in ~/.aws nor of this machine",
    "EndpointConnectionError": "nobody answers at the server; is AWS_ENDPOINT_URL right, and is there a network?",
}


class Name(NamedTuple):
    """A file of a store. size: in bytes. time_ns: when it was changed."""

    url: str
    size: int
    time_ns: int


def filesystem(url: str) -> Any:
    """Returns the driver of a place's store; UserError where there is none."""
    try:
        with naming_the_extra(url):
            return _driver(url.partition("://")[0])
    except ImportError as error:
        raise UserError(f"{url}: needs a driver of its store ({str(error)[:80]})") from error
    except ValueError as error:
        raise UserError(f"{url}: {str(error)[:80]}; give a folder or s3://bucket/folder") from error


@cache  # which every thread may use
def _driver(protocol: str) -> Any:
    import fsspec

    options: dict[str, Any] = {"use_listings_cache": False}  # other machines write there, too
    if protocol == "s3":
        import_module("s3fs")  # whose absence fsspec tells in words of its own
        options |= {"default_block_size": PIECE, "max_concurrency": PIECES}
    return fsspec.filesystem(protocol, **options)


def put_file(path: Path, url: str) -> None:
    """Puts a file into a store; a large one in pieces, of which S3 takes so many and no more."""
    pieces = {"chunksize": max(PIECE, -(-os.stat(path).st_size // MOST_PIECES))} if url.startswith("s3://") else {}
    filesystem(url).put_file(os.fspath(path), url, **pieces)


def files_at(url: str) -> Iterator[Name]:
    """Yields every file at or below a place."""
    store = filesystem(url)
    try:
        with store_errors(url):
            if store.isfile(url):
                yield _facts(url, store.info(url))
                return
            start = len(store._strip_protocol(url))
            for name, facts in _found(store, url):
                if not name.endswith("/"):  # how some tools write an empty folder
                    yield _facts(f"{url}{name[start:]}", facts)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{url}: cannot be listed: {error.strerror}") from error


def _found(store: Any, url: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields name and facts of everything below a place; of S3, memory holds a page of them, a thousand at most.

    Not folder by folder: a walk leaves out keys with two slashes in a row without a word.
    """
    if not url.startswith("s3://"):
        yield from store.find(url, detail=True).items()
        return
    bucket, key, _ = store.split_path(url)
    asked = {"Bucket": bucket, "Prefix": f"{key}/" if key else "", **store.req_kw}
    while True:
        page = store.call_s3("list_objects_v2", **asked)
        for facts in page.get("Contents", ()):
            yield f"{bucket}/{facts['Key']}", {**facts, "size": facts["Size"]}
        if not page.get("IsTruncated"):
            return
        asked["ContinuationToken"] = page["NextContinuationToken"]


def _facts(url: str, found: dict[str, Any]) -> Name:
    changed = found.get("LastModified") or found.get("created") or found.get("mtime") or 0
    seconds = changed if isinstance(changed, (int, float)) else changed.timestamp()
    return Name(url, int(found.get("size") or 0), int(seconds * 1e9))


@contextmanager
def store_errors(url: str) -> Iterator[None]:
    """Makes one kind of error, OSError with a short `strerror`, of all that a store's library raises.

    Its own texts are left out where they may hold more than the name of the fault.
    """
    try:
        yield
    except (FileNotFoundError, FileExistsError) as error:
        raise type(error)(
            error.errno, "is not there" if isinstance(error, FileNotFoundError) else "is there", url
        ) from None
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror or _in_words(error)}"[:120], url) from None
    except _library_errors() as error:
        raise OSError(None, _in_words(error), url) from None


def _in_words(error: Exception) -> str:
    name = type(error).__name__
    return IN_WORDS.get(name, name)


def _library_errors() -> tuple[type[Exception], ...]:
    """Returns what drivers raise besides OSError: a missing password, a network that is not there."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        return ()
    return BotoCoreError, ClientError
