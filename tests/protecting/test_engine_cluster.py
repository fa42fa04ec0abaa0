"""protect and verify --engine ray: three nodes on loopback and an S3 server; nodes and the driver are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.s3_server import BUCKET, served
from tests.support.small_cluster import SmallCluster, cluster_of
from tests.support.told_progress import Told
from unseg.compute import engine as engines
from unseg.compute.engine import Engine
from unseg.compute.progress import Tick
from unseg.protecting import engine_runs
from unseg.protecting.container_runs import LOOSE
from unseg.protecting.manifest import MANIFEST, SHARDS
from unseg.protecting.run import ProtectSettings, protect
from unseg.protecting.stores import verify_anywhere
from unseg.protecting.verification import verify
from unseg.storage.files import files_under

pytestmark = pytest.mark.slow
IMAGES = 36
SETTINGS, TARS = ProtectSettings(workers=1, unmasked="copy"), ProtectSettings(workers=1)
ROOT = f"s3://{BUCKET}/set"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs with masks of classes; one has no mask, one is broken. What one machine makes of them is in `out`."""
    folder = tmp_path_factory.mktemp("local")
    draw = np.random.default_rng(22)
    for number in range(IMAGES):
        name = f"{'a' if number % 3 else 'b'}/{number:03}.{'jpg' if number % 5 == 1 else 'png'}"
        for part in ("photos", "masks"):
            (folder / part / name).parent.mkdir(parents=True, exist_ok=True)
        size = (61, 83 + number % 7)
        Image.fromarray(draw.integers(20, 230, (*size, 3)).astype(np.uint8)).save(folder / "photos" / name)
        labels = np.array([1, 2, 5], np.uint8)[(np.arange(size[1])[None] // 9 + np.arange(61)[:, None] // 20) % 3]
        if number != 7:
            Image.fromarray(labels).save((folder / "masks" / name).with_suffix(".png"))
    (folder / "photos" / "a" / "011.jpg").write_bytes(b"\xff\xd8broken")
    (folder / "key").write_text("3c" * 32 + "\n")
    made = protect(folder / "photos", folder / "out", SETTINGS, masks=folder / "masks", key=folder / "key")
    assert [len(made.of(status)) for status in ("protected", "copied", "failed")] == [IMAGES - 2, 1, 1]
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with served() as files:
        yield files


@pytest.fixture(scope="module")
def cluster(server: Any) -> Iterator[SmallCluster]:
    """The server is there before the nodes: they find it, and its password, in their environment."""
    with cluster_of(3) as small:
        yield small


class Killing(Told):
    """A progress that kills a node, and starts another, when so many images are done."""

    def __init__(self, cluster: SmallCluster, *at: int) -> None:
        super().__init__()
        self._cluster, self._at, self._done = cluster, list(at), 0

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Tick]:
        with super().bar(what, total) as tick:

            def act() -> None:
                tick()
                self._done += what == "images"
                if self._at and self._done >= self._at[0]:
                    self._at.pop(0)
                    self._cluster.kill()
                    self._cluster.add()

            yield act


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files_under(folder)}


def objects(server: Any, place: str) -> dict[str, bytes]:
    start = len(place.removeprefix("s3://")) + 1
    return {name[start:]: server.cat_file(name) for name in server.find(place)}


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was told of actors that were lost; shards are small."""
    monkeypatch.setattr(engine_runs, "LEAST", 3)
    told: list[str] = []
    count = engines._Shift._count_lost

    def counted(shift: Any, what: str, error: Exception) -> None:
        told.append(what)
        count(shift, what, error)

    monkeypatch.setattr(engines._Shift, "_count_lost", counted)
    return told


def test_two_nodes_are_killed_and_the_store_holds_what_one_machine_writes(
    cluster: SmallCluster, server: Any, local: Path, lost: list[str]
) -> None:
    for part in ("photos", "masks"):
        server.put(f"{local / part}/", f"{ROOT}/{part}", recursive=True)
    told, engine = Killing(cluster, 4, 16), Engine(cluster.address)
    given = {"masks": f"{ROOT}/masks", "key": local / "key"}
    made = protect(f"{ROOT}/photos", f"{ROOT}/out", SETTINGS, **given, engine=engine, progress=told)
    assert len(lost) >= 2 and ("images", IMAGES, IMAGES) in told.bars
    assert objects(server, f"{ROOT}/out") == tree(local / "out")
    assert (made.exit_code, len(made.entries)) == (1, IMAGES)
    assert made.kept <= 2 * engine_runs.LEAST  # what the actors of the lost shards had finished counts as kept
    options = {"masks": None, "annotations": None, "workers": 1, "max_megapixels": 200.0, "progress": Told()}
    server.cp_file(f"{ROOT}/out/b/000.png", f"{ROOT}/out/b/003.png")
    found = verify_anywhere(Path(f"{ROOT}/out"), originals=None, **options, engine=Engine(cluster.address, most=1))
    alone = verify_anywhere(Path(f"{ROOT}/out"), originals=None, **options)
    assert len(found.failures) == 1 and found == alone


@pytest.fixture
def tars(local: Path) -> Path:
    """Six tars of the photographs and their masks; what one machine makes of them is in `tars-out`."""
    if (local / "tars").is_dir():
        return local / "tars"
    (local / "tars").mkdir()
    photos = sorted(path for path in (local / "photos").rglob("*") if path.is_file())
    for number in range(6):
        with tarfile.open(local / "tars" / f"{number}.tar", "w") as archive:
            for path in photos[number::6]:
                archive.add(path, f"{path.stem}{path.suffix}")
                mask = (local / "masks" / path.relative_to(local / "photos")).with_suffix(".png")
                if mask.is_file():
                    archive.add(mask, f"{path.stem}.mask.png")
    made = protect(local / "tars", local / "tars-out", TARS, webdataset="mask.png", key=local / "key")
    assert [len(made.of(status)) for status in ("protected", "skipped", "failed")] == [IMAGES - 2, 1, 1]
    return local / "tars"


def test_a_node_is_killed_and_tars_are_those_of_one_machine(
    cluster: SmallCluster, local: Path, tars: Path, lost: list[str]
) -> None:
    told = Killing(cluster, 2)
    protect(
        tars,
        local / "tars-by-actors",
        TARS,
        webdataset="mask.png",
        key=local / "key",
        engine=Engine(cluster.address),
        progress=told,
    )
    assert lost and ("images", IMAGES, IMAGES) in told.bars
    assert tree(local / "tars-by-actors") == tree(local / "tars-out")
    options = {"masks": None, "annotations": None, "workers": 1, "max_megapixels": 200.0, "progress": Told()}
    found = verify_anywhere(local / "tars-out", originals=None, **options, engine=Engine(cluster.address))
    assert found == verify_anywhere(local / "tars-out", originals=None, **options)
    assert (found.failures, found.other_files) == ([], ())


@pytest.mark.parametrize("what", ["photos", "tars"])
def test_the_driver_is_killed_and_the_same_command_goes_on(
    cluster: SmallCluster, local: Path, tars: Path, what: str
) -> None:
    out = local / f"{what}-of-a-killed-driver"  # manifests name the originals as seen from there
    records, alone = out, local / "out"
    objects = ["--masks", str(local / "masks"), "--unmasked", "copy"]
    if what == "tars":
        records, alone, objects = out / LOOSE, local / "tars-out", ["--webdataset", "mask.png"]
    command = [sys.executable, "-c", "import sys; from unseg.cli import main; sys.exit(main())", "protect"]
    command += [str(local / what), *objects, "--out", str(out), "--key", str(local / "key"), "--quiet"]
    command += ["--engine", "ray", "--ray-address", cluster.address, "--processes", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as driver:
        until = time.monotonic() + 120
        while not list(records.glob(f"{SHARDS}/*/{MANIFEST}")):
            assert driver.poll() is None and time.monotonic() < until
            time.sleep(0.01)
        os.kill(driver.pid, signal.SIGKILL)
    assert (records / SHARDS).is_dir()
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 1 and "protected" in ended.stdout and ended.stderr == ""
    assert tree(out) == tree(alone)
    if what == "photos":
        assert verify(out).as_dict() == verify(alone).as_dict()
