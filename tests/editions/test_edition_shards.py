"""SHARD=plan/2, 1/2, 2/2 and merge write the edition that one run writes, to the byte, as ENGINE=ray does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.editions.test_editions import run
from tests.support.actors_here import ActorsHere, use
from tests.support.edition_sets import BUILDERS
from unseg.compute.engine import Engine
from unseg.editions.audit import verify_edition
from unseg.errors import UserError
from unseg.protecting.merging import merge
from unseg.storage.files import files_under


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_under(folder)}


@pytest.mark.parametrize("name", ["camvid", "coco"])  # coco's JSON is rewritten with NAMES=png
def test_an_edition_in_shards_is_the_edition(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mini = BUILDERS[name](tmp_path / "data")
    more = {"NAMES": "png", "KEY": str(tmp_path / "key")}
    (tmp_path / "key").write_text("5a" * 32)
    assert run(mini.root, tmp_path / "alone", name, monkeypatch, **more) == 1
    out = tmp_path / "out"
    assert run(mini.root, out, name, monkeypatch, SHARD="1/2", **more) == 2
    assert "SHARD=1/2: nothing in OUT=" in capsys.readouterr().err
    assert run(mini.root, out, name, monkeypatch, SHARD="plan/2", **more) == 0
    assert run(mini.root, out, name, monkeypatch, SHARD="2/2", **more) in (0, 1)
    assert run(mini.root, out, name, monkeypatch, SHARD="merge", **more) == 2
    assert "shard 1/2 has not run" in capsys.readouterr().err
    assert run(mini.root, out, name, monkeypatch, SHARD="1/2", **more) in (0, 1)
    assert "come along with SHARD=merge" in capsys.readouterr().out.replace("\n", " ")
    with pytest.raises(UserError, match="is an edition; make it whole with its script and SHARD=merge"):
        merge(out)
    for _ in range(2):
        assert run(mini.root, out, name, monkeypatch, SHARD="merge", **more) == 1
        assert tree(out) == tree(tmp_path / "alone")
    found = verify_edition(out)
    assert (found.failures, found.extra, found.other_files) == ([], (), ())


def test_an_edition_by_actors_is_the_edition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mini, actors = BUILDERS["coco"](tmp_path / "data"), ActorsHere()
    (tmp_path / "key").write_text("5a" * 32)
    key = str(tmp_path / "key")
    assert run(mini.root, tmp_path / "alone", "coco", monkeypatch, KEY=key) == 1
    use(actors, monkeypatch)
    for _ in range(2):
        assert run(mini.root, tmp_path / "out", "coco", monkeypatch, KEY=key, ENGINE="ray") == 1
        assert tree(tmp_path / "out") == tree(tmp_path / "alone")
    assert actors.started == 2
    assert verify_edition(tmp_path / "out", engine=Engine()) == verify_edition(tmp_path / "out")


@pytest.mark.parametrize(
    "settings",
    [
        {"SHARD": "1/2", "ENGINE": "ray"},
        {"SHARD": "3/2"},
        {"SHARD": "merge", "LIMIT": "3"},
        {"SHARD": "merge", "DRY_RUN": "1"},
    ],
)
def test_odd_shards_are_refused(
    settings: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mini = BUILDERS["camvid"](tmp_path / "data")
    assert run(mini.root, tmp_path / "out", "camvid", monkeypatch, **settings) == 2
    assert f"SHARD={settings['SHARD']}: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
