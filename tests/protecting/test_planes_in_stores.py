"""DICOM, NIfTI and GeoTIFF in a store: the same bytes, lines and proofs as on the disk."""

from __future__ import annotations

import gzip
import pickle
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.actors_here import ActorsHere, use
from tests.support.killed_sends import killed_after
from tests.support.plane_sets import FAILED, PROTECTED, SKIPPED, make_planes
from tests.support.s3_server import BUCKET, served
from tests.support.told_progress import Told
from unseg.compute.engine import Engine
from unseg.errors import UserError
from unseg.protecting import stores
from unseg.protecting.manifest import MANIFEST
from unseg.protecting.run import ProtectSettings, protect
from unseg.protecting.shards import Shard
from unseg.protecting.stores import merge_anywhere, verify_anywhere
from unseg.storage.files import files_under, open_for_reading
from unseg.storage.kept_contents import mode_of
from unseg.storage.mirror import Mirror
from unseg.storage.mounts import ABSENT, BROUGHT, mounted

SETTINGS = ProtectSettings(workers=2, mask_type="binary")
ROOT = f"s3://{BUCKET}/planes"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of planes with their masks, and what a run on the disk makes of them."""
    folder = tmp_path_factory.mktemp("planes")
    make_planes(folder)
    (folder / "key").write_text("3c" * 32 + "\n")
    made = protect(folder / "in", folder / "out", SETTINGS, masks=folder / "masks", key=folder / "key")
    assert tuple(entry.input for entry in made.of("protected")) == PROTECTED
    assert tuple(entry.input for entry in made.of("skipped")) == SKIPPED
    reasons = {entry.input: entry.reason or "" for entry in made.of("failed")}
    assert reasons.keys() == FAILED.keys()
    assert all(told in reasons[name] for name, told in FAILED.items()), reasons
    return folder


@pytest.fixture(scope="module")
def server(local: Path) -> Iterator[Any]:
    with served() as files:
        for part in ("in", "masks"):
            for path in files_under(local / part):
                files.put_file(str(path), f"{ROOT}/{path.relative_to(local).as_posix()}")
        yield files


@pytest.fixture
def there(server: Any) -> Any:
    """The server without any output."""
    if server.exists(f"{ROOT}/out"):
        server.rm(f"{ROOT}/out", recursive=True)
    return server


def run(local: Path, out: object = f"{ROOT}/out", **given: Any) -> Any:
    return protect(f"{ROOT}/in", out, SETTINGS, **{"masks": f"{ROOT}/masks", "key": local / "key", **given})


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_under(folder)}


def objects(server: Any) -> dict[str, bytes]:
    start = len(f"{ROOT}/out".removeprefix("s3://")) + 1
    return {name[start:]: server.cat_file(name) for name in server.find(f"{ROOT}/out")}


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_store_gets_what_the_disk_gets_to_the_byte(there: Any, local: Path, processes: int) -> None:
    told = Told()
    made = run(local, processes=processes, progress=told)
    assert objects(there) == tree(local / "out")
    assert (made.exit_code, len(made.entries)) == (1, len(PROTECTED) + len(SKIPPED) + len(FAILED))
    result = verify_anywhere(f"{ROOT}/out")
    assert (result.failures, result.missing, result.extra) == ([], (), ())
    assert len(result.findings) == len(PROTECTED) and result == verify_anywhere(local / "out")


def test_contents_that_have_no_room_are_brought_again(there: Any, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file is larger than the room, so each one is given up as soon as nobody holds it."""
    made = Mirror.__init__
    monkeypatch.setattr(Mirror, "__init__", lambda self, folder, room=1, **kept: made(self, folder, 1, **kept))
    run(local)
    assert objects(there) == tree(local / "out")
    assert verify_anywhere(f"{ROOT}/out").failures == []


def test_between_a_store_and_the_disk(there: Any, local: Path, tmp_path: Path) -> None:
    wanted = {name: data for name, data in tree(local / "out").items() if name != MANIFEST}
    run(local, tmp_path / "out")
    assert {name: data for name, data in tree(tmp_path / "out").items() if name != MANIFEST} == wanted
    places = {"originals": f"{ROOT}/in", "masks": f"{ROOT}/masks"}
    result = verify_anywhere(tmp_path / "out", **places)
    assert (result.failures, len(result.findings)) == ([], len(PROTECTED))
    protect(local / "in", f"{ROOT}/out", SETTINGS, masks=local / "masks", key=local / "key")
    assert {name: data for name, data in objects(there).items() if name != MANIFEST} == wanted
    result = verify_anywhere(f"{ROOT}/out", originals=local / "in", masks=local / "masks")
    assert (result.failures, len(result.findings)) == ([], len(PROTECTED))


def test_one_raster_with_outlines_and_what_lies_beside_them(there: Any, local: Path) -> None:
    one, mask = "in/maps/roads.tif", "masks/maps/roads.shp"
    protect(f"{ROOT}/{one}", f"{ROOT}/out", SETTINGS, mask=f"{ROOT}/{mask}", key=local / "key")
    assert objects(there)["roads.tif"] == (local / "out" / "maps" / "roads.tif").read_bytes()
    result = verify_anywhere(f"{ROOT}/out")
    assert (result.failures, len(result.findings)) == ([], 1)


def test_a_dry_run_foresees_it_and_sends_nothing(there: Any, local: Path) -> None:
    made = run(local, dry_run=True)
    assert {entry.input for entry in made.of("protected")} == set(PROTECTED)
    assert objects(there) == {}


def test_shards_bring_the_contents_of_their_own_files_alone(
    there: Any, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brought: list[str] = []
    bring = Mirror._bring

    def noted(self: Mirror, path: Path) -> None:
        if mode_of(path) == ABSENT:
            brought.append((self.url(path) or "").removeprefix(f"{ROOT}/"))
        bring(self, path)

    monkeypatch.setattr(Mirror, "_bring", noted)
    run(local, shard=Shard.parse("plan/4"))
    of_the_plan, series = set(brought), "masks/whole-series.dcm"
    assert of_the_plan == {series}
    seen: dict[str, int] = {}
    for number in (3, 1, 4, 2):
        brought.clear()
        run(local, shard=Shard.parse(f"{number}/4"))
        for name in set(brought) - {series}:
            seen[name] = seen.get(name, 0) + 1
    assert max(seen[name] for name in seen if name.startswith("in/")) == 1
    assert {name for name in seen if name.startswith("in/")} == {
        f"in/{name}" for name in (*PROTECTED, *SKIPPED, *FAILED)
    }
    merge_anywhere(f"{ROOT}/out")
    assert objects(there) == tree(local / "out")


def test_first_bytes_are_read_once_in_a_run(there: Any, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DICOM files are looked at twice: for what they are, and for which instance they are."""
    opened: Counter[str] = Counter()
    in_ranges = Mirror.in_ranges

    def noted(self: Mirror, path: str | Path) -> Any:
        found = in_ranges(self, path)
        opened.update([] if found is None else [str(self.url(path)).removeprefix(f"{ROOT}/")])
        return found

    monkeypatch.setattr(Mirror, "in_ranges", noted)
    monkeypatch.setattr(stores, "IMAGES_A_SHARD", 6)
    run(local)
    assert {name: times for name, times in opened.items() if name.startswith("in/")} == {
        f"in/{name}": 1 + (name in ("scans/IM1", "scans/first.dcm", "scans/other.dcm"))
        for name in (*PROTECTED, *SKIPPED, *FAILED)
        if name != "photo.png"
    }


def test_large_files_make_more_shards(there: Any, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(path.stat().st_size for path in files_under(local / "in"))
    monkeypatch.setattr(stores, "BYTES_A_SHARD", size // 5)
    told = Told()
    run(local, progress=told)
    assert len([what for what, _, _ in told.bars if what == "images"]) in (5, 6)
    assert objects(there) == tree(local / "out")


@pytest.mark.parametrize("sends", [pytest.param(2, marks=pytest.mark.slow), 5, pytest.param(9, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_goes_on(there: Any, local: Path, sends: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "IMAGES_A_SHARD", 6)
    killed_after(sends, lambda: run(local), monkeypatch)
    run(local)
    assert objects(there) == tree(local / "out")


def test_an_actor_does_the_same(there: Any, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(ActorsHere(), monkeypatch)
    run(local, engine=Engine())
    assert objects(there) == tree(local / "out")
    there.pipe_file(f"{ROOT}/out/maps/roads.tif", (local / "out" / "maps" / "town.tif").read_bytes())
    found = verify_anywhere(f"{ROOT}/out", engine=Engine())
    assert [finding.name for finding in found.failures] == ["maps/roads.tif"]
    assert found == verify_anywhere(f"{ROOT}/out")


def test_verify_sees_what_changed_in_the_store(there: Any, local: Path) -> None:
    run(local)
    changed = {
        "maps/cloud.tif": "changed since it was written",
        "scans/first.dcm": "is not the original's",
        "volume.nii.gz": "its header is not the original's",
    }
    for name in changed:
        there.pipe_file(f"{ROOT}/out/{name}", _tampered(name, there.cat_file(f"{ROOT}/out/{name}")))
    there.mv(f"{ROOT}/masks/maps/town.gpkg", f"{ROOT}/masks/maps/away.gpkg")
    found = {finding.name: finding.problem or "" for finding in verify_anywhere(f"{ROOT}/out").failures}
    there.mv(f"{ROOT}/masks/maps/away.gpkg", f"{ROOT}/masks/maps/town.gpkg")
    changed["maps/town.tif"] = f"its mask {ROOT}/out/../masks/maps/town.gpkg is not there"
    assert found.keys() == changed.keys() and all(told in found[name] for name, told in changed.items()), found


def _tampered(name: str, data: bytes) -> bytes:
    """Returns a file with one bit of what should have stayed turned: of its header, a name, its last bytes."""
    if name.endswith(".gz"):
        values = bytearray(gzip.decompress(data))
        values[150] ^= 1  # of the header's description
        return gzip.compress(bytes(values))
    changed = bytearray(data)
    place = data.index(b"Doe^Jane") if name.endswith(".dcm") else len(data) - 1
    changed[place] ^= 1
    return bytes(changed)


def test_what_is_gone_when_it_is_read_is_told_by_name(there: Any, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = {
        "masks/maps/grid.tif": "mask: cannot be read: is not there",
        "in/scans/slices": "cannot be read: is not there",
    }
    listed = Mirror.listed

    def then_removed(self: Mirror, url: str | Path) -> Path:
        place = listed(self, url)
        if str(url).endswith("/out"):  # the last that is listed
            there.rm([f"{ROOT}/{name}" for name in gone])
        return place

    with monkeypatch.context() as patch:
        patch.setattr(Mirror, "listed", then_removed)
        made = run(local)
    for name in gone:
        there.put_file(str(local / name), f"{ROOT}/{name}")
    lines = {entry.input: entry for entry in made.entries}
    assert (lines["maps/grid.tif"].status, lines["maps/grid.tif"].reason) == ("failed", gone["masks/maps/grid.tif"])
    assert (lines["scans/slices"].status, lines["scans/slices"].reason) == ("failed", gone["in/scans/slices"])
    assert tuple(entry.input for entry in made.of("protected")) == tuple(
        name for name in PROTECTED if name not in ("maps/grid.tif", "scans/slices")
    )


def test_a_file_that_cannot_be_looked_at_ends_the_run(there: Any, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = Mirror.listed

    def then_removed(self: Mirror, url: str | Path) -> Path:
        place = listed(self, url)
        if str(url).endswith("/in"):
            there.rm_file(f"{ROOT}/in/scans/IM1")
        return place

    with monkeypatch.context() as patch:
        patch.setattr(Mirror, "listed", then_removed)
        with pytest.raises(UserError, match=f"^{ROOT}/in/scans/IM1: cannot be looked at: is not there; allow"):
            run(local)
    there.put_file(str(local / "in/scans/IM1"), f"{ROOT}/in/scans/IM1")
    assert objects(there) == {}


def test_what_is_held_stays_and_what_is_released_goes(there: Any, tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "mirror", room=1)
    place = mirror.listed(f"{ROOT}/masks/maps")
    one, other = place / "grid.tif", place / "roads.prj"
    twin: Mirror = pickle.loads(pickle.dumps(mirror))  # as another process has it
    with mirror.held(one), twin.held(one):
        content = one.read_bytes()
        with mirror.held(other):
            assert one.read_bytes() == content and mode_of(one) == BROUGHT
    assert mode_of(one) == BROUGHT and len(list(tmp_path.iterdir())) == 2  # the mirror, and the lock of who counts
    with mirror.held(place / "roads.dbf"):
        assert {mode_of(one), mode_of(other)} == {ABSENT}
    assert sum(content) > 0


def test_what_is_given_up_before_it_is_opened_is_brought_again(
    there: Any, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = Mirror(tmp_path / "mirror")
    path, tries = mirror.listed(f"{ROOT}/masks/maps") / "grid.tif", []
    bring = Mirror.bring

    def then_given_up(self: Mirror, given: str | Path) -> bool:
        found = bring(self, given)
        tries.append(found)
        return self.give_up(Path(given)) if len(tries) == 1 else found

    monkeypatch.setattr(Mirror, "bring", then_given_up)
    with mounted(mirror), open_for_reading(path) as file:
        assert file.read() == (local / "masks" / "maps" / "grid.tif").read_bytes()
    assert tries == [True, True]
