"""Editions whose output lies in a store: the files of one on the disk, also in shards, killed, and proven there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import edition_sets
from tests.support.actors_here import ActorsHere, use
from tests.support.killed_sends import killed_after
from tests.support.s3_server import BUCKET, served
from unseg import cli
from unseg.protecting.manifest import CARRIED, EDITION, MANIFEST
from unseg.storage.files import files_under
from unseg.storage.mirror import Mirror

OUT = f"s3://{BUCKET}/edition"
SETTINGS = ("OBJECTS", "EPSILON", "REGION", "NAMES", "FORMAT", "VAL", "LIMIT", "DRY_RUN", "NPROC", "SHARD", "ENGINE")
OF_PLACES = (MANIFEST, EDITION)  # which say where the data set lies, from where they lie themselves


def run(folder: Path, patch: pytest.MonkeyPatch, out: object = OUT, **settings: str) -> int:
    for variable in SETTINGS:
        patch.delenv(variable, raising=False)
    given = {"DATA_ROOT": folder / "set", "OUT": out, "NGPU": 0, "KEY": folder / "key", "NAMES": "png", **settings}
    for variable, value in given.items():
        patch.setenv(variable, str(value))
    return cli.main(["edition", "coco"])


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small COCO, whose images get new names, and its edition on the disk."""
    folder = tmp_path_factory.mktemp("edition")
    edition_sets.coco(folder / "set")
    (folder / "key").write_text("3c" * 32 + "\n")
    with pytest.MonkeyPatch.context() as patch:
        assert run(folder, patch, folder / "out") in (0, 1)
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with served() as files:
        yield files


@pytest.fixture
def there(server: Any) -> Any:
    """The server without any output."""
    if server.exists(OUT):
        server.rm(OUT, recursive=True)
    return server


def wanted(local: Path) -> dict[str, bytes]:
    found = {path.relative_to(local / "out").as_posix(): path.read_bytes() for path in files_under(local / "out")}
    return {name: data for name, data in found.items() if name not in OF_PLACES}


def objects(server: Any, local: Path) -> dict[str, bytes]:
    start = len(OUT.removeprefix("s3://")) + 1
    found = {name[start:]: server.cat_file(name) for name in server.find(OUT)}
    assert {name in found for name in OF_PLACES} == {True}
    here, there = (json.loads(data) for data in ((local / "out" / EDITION).read_bytes(), found[EDITION]))
    assert {**here, "root": None} == {**there, "root": None}
    return {name: data for name, data in found.items() if name not in OF_PLACES}


def test_a_store_gets_the_files_of_an_edition_and_verify_proves_them(
    there: Any, local: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(local, monkeypatch)
    assert f"The edition: {OUT}" in capsys.readouterr().out and objects(there, local) == wanted(local)
    originals = ["--originals", str(local / "set")]
    assert cli.main(["verify", OUT, *originals]) == cli.main(["verify", str(local / "out")]) == code
    carried = next(name for name in wanted(local) if name.endswith(".json"))
    there.pipe_file(f"{OUT}/{carried}", b"{}")
    capsys.readouterr()
    assert cli.main(["verify", OUT, *originals]) == 1
    assert f"{carried}: changed since it was written" in capsys.readouterr().out


def test_a_second_run_sends_nothing(there: Any, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(local, monkeypatch)
    sent: list[str] = []
    send = Mirror.send

    def noted(self: Mirror, path: Path, is_new: bool = False) -> None:
        sent.append(path.name)
        send(self, path, is_new)

    monkeypatch.setattr(Mirror, "send", noted)
    run(local, monkeypatch)
    assert set(sent) <= {MANIFEST, CARRIED} and objects(there, local) == wanted(local)


@pytest.mark.parametrize("left_to_send", [pytest.param(3, marks=pytest.mark.slow), 13])
def test_a_run_that_is_killed_goes_on(
    there: Any, local: Path, monkeypatch: pytest.MonkeyPatch, left_to_send: int
) -> None:
    killed_after(left_to_send, lambda: run(local, monkeypatch), monkeypatch)
    run(local, monkeypatch)
    assert objects(there, local) == wanted(local)


def test_shards_and_actors(there: Any, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for shard in ("plan/2", "2/2", "1/2", "merge"):
        assert run(local, monkeypatch, SHARD=shard) in (0, 1)
    assert objects(there, local) == wanted(local)
    there.rm(OUT, recursive=True)
    use(ActorsHere(), monkeypatch)
    assert run(local, monkeypatch, ENGINE="ray") in (0, 1)
    assert objects(there, local) == wanted(local)


def test_what_does_not_go_is_one_line(
    there: Any, local: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(local, monkeypatch, VAL="link") == 2
    assert f"VAL=link: OUT={OUT} is in a store, which has no links" in capsys.readouterr().err.replace("\n", " ")
    assert run(local, monkeypatch, KEY="") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert told.startswith(f"unseg: error: OUT={OUT}: a key does not lie in a store") and "with KEY" in told
    assert not there.find(OUT)
