"""The shipped generator in onnxruntime and in torch: the same pixels, whatever threads and batches there are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from benchmarks import export_onnx
from unseg import cli
from unseg.compute import device
from unseg.errors import UserError
from unseg.method.config import Budget
from unseg.protecting import generators
from unseg.protecting.generators import fastest_generator, load_generator
from unseg.protecting.network_protector import NetworkProtector
from unseg.protecting.run import ProtectSettings, protect
from unseg.storage import onnx_generator
from unseg.storage.image_decoding import read_image
from unseg.storage.label_decoding import read_label
from unseg.storage.onnx_generator import FACTS, OnnxGenerator
from unseg.storage.state_files import open_state

PACKAGE = Path(generators.__file__).parents[1]
SHOWN = PACKAGE / "quickstart_data"
ONNX = PACKAGE / "weights" / "compact.onnx"
PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


@pytest.fixture(scope="module")
def pictures() -> list[tuple[np.ndarray, np.ndarray]]:
    """Photographs with masks, crops of them that are narrow, grey and deep, and noise, which is no photograph."""
    found = []
    for name in PHOTOGRAPHS:
        mask = read_label((SHOWN / "masks" / name).with_suffix(".png")) == 1
        found.append((read_image(SHOWN / "photographs" / name).pixels, mask))
    (astronaut, person), (cat, fur) = found[:2]
    draw = np.random.default_rng(0)
    found += [
        (astronaut[40:80, 10:500], person[40:80, 10:500]),
        (cat[:, 200:233].astype(np.uint16) * 257, fur[:, 200:233]),
        (cat[30:250, 50:300, :1], fur[30:250, 50:300]),
        (draw.integers(0, 256, (70, 33, 3), dtype=np.uint8), draw.random((70, 33)) < 0.4),
    ]
    return [(np.ascontiguousarray(image), np.ascontiguousarray(mask)) for image, mask in found]


@pytest.fixture
def without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(generators, "is_there", lambda package: package != "onnxruntime")
    yield


def made(network: object, pictures: Sequence[tuple[np.ndarray, np.ndarray]], **options: int) -> list[np.ndarray]:
    protector = NetworkProtector(network, Budget(8, 2), device="cpu", **options)
    return [protector(image, mask) for image, mask in pictures]


def test_both_paths_round_every_pixel_alike(pictures: list[tuple[np.ndarray, np.ndarray]]) -> None:
    small = made("compact", pictures)
    large = made(load_generator("compact"), pictures)
    assert isinstance(fastest_generator("compact", "cpu").network, OnnxGenerator)
    for one, other, (image, _) in zip(small, large, pictures, strict=True):
        assert one.dtype == other.dtype == image.dtype and (one != image).any()
        # In 16 bits a value is a 257th of a grey level, and rounding tells noises apart that differ by a millionth.
        assert np.abs(one.astype(int) - other).max() <= (0 if image.dtype == np.uint8 else 1)


def test_boxes_prompt_both_paths_alike(pictures: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for image, mask in pictures[:2]:
        rows, columns = np.nonzero(mask)
        box = [[columns.min() + 3, rows.min() + 9, columns.max() - 20, rows.max()]]
        one, other = (
            NetworkProtector(network, Budget(8, 2), device="cpu")(image, boxes=box)
            for network in ("compact", load_generator("compact"))
        )
        assert np.array_equal(one, other)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_threads_and_batches_change_no_bit(
    threads: int, batch_size: int, pictures: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    alone = NetworkProtector("compact", device="cpu")
    framed = [alone.frame(image, mask) for image, mask in pictures[:5]]
    expected = [alone.noise([item])[0] for item in framed]
    protector = NetworkProtector("compact", device="cpu", batch_size=batch_size)
    batches = [framed[start : start + batch_size] for start in range(0, len(framed), batch_size)]
    with ThreadPoolExecutor(threads) as pool:
        found = [noise for batch in pool.map(protector.noise, batches * 2) for noise in batch]
    assert all(np.array_equal(one, other) for one, other in zip(found, expected * 2, strict=True))


@pytest.mark.parametrize("noise", ["compact", "tint"])
def test_a_run_writes_the_same_bytes_on_both_paths_and_goes_on_with_the_other(
    noise: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    settings = ProtectSettings(noise=noise, device="cpu", mask_type="index" if noise == "tint" else "auto")
    images, masks = SHOWN / "photographs", SHOWN / "masks"
    protect(images, tmp_path / "onnx", settings, masks=masks, limit=2)
    request.getfixturevalue("without_onnxruntime")
    protect(images, tmp_path / "torch", settings, masks=masks)
    again = protect(images, tmp_path / "onnx", replace(settings, workers=2), masks=masks)
    assert again.kept == 2 and not again.of("failed")
    files = {path.name for path in (tmp_path / "torch").iterdir()}
    assert files == {path.name for path in (tmp_path / "onnx").iterdir()} and len(files) == 5
    for name in files:
        one, other = ((tmp_path / folder / name).read_bytes() for folder in ("onnx", "torch"))
        assert one == other


# --- the file


def test_the_shipped_file_is_of_the_safetensors_beside_it() -> None:
    """What it says of its network, and that exporting anew gives the same noise."""
    facts = json.loads({entry.key: entry.value for entry in onnx.load(ONNX).metadata_props}[FACTS])
    loaded = load_generator("compact")
    weights = ONNX.with_suffix(".safetensors")
    assert facts["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest() == loaded.sha256
    assert facts["metadata"] == open_state(weights).metadata == loaded.metadata
    small = fastest_generator("compact", "cpu")
    assert (small.name, small.source, small.sha256, small.metadata) == (
        loaded.name,
        loaded.source,
        loaded.sha256,
        loaded.metadata,
    )
    assert np.array_equal(small.network.code_noise(), loaded.network.code_noise().numpy())
    assert small.network.parameters == sum(parameter.numel() for parameter in loaded.network.parameters())


def test_exporting_anew_gives_the_shipped_network(tmp_path: Path) -> None:
    assert export_onnx.main(["--out", str(tmp_path / "anew.onnx")]) == 0
    draw = np.random.default_rng(0)
    values = (
        draw.random((2, 3, 256, 256), np.float32),
        (draw.random((2, 1, 256, 256)) < 0.5).astype(np.float32) * 255,
        np.zeros((2, 4), np.float32),
        np.array([[True, False, False]] * 2),
    )
    fed = dict(zip(onnx_generator.INPUTS, values, strict=True))
    shipped, anew = (
        onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, fed)[0]
        for file in (ONNX, tmp_path / "anew.onnx")
    )
    assert shipped.shape == (2, 3, 256, 256) and np.abs(shipped - anew).max() <= 1e-5


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").mkdir()
    monkeypatch.setattr(onnx_generator.resources, "files", lambda package: tmp_path)
    with pytest.raises(UserError, match=r"compact\.onnx: is missing from this installation; install UnSeg again"):
        onnx_generator.load_onnx()
    (tmp_path / "weights" / ONNX.name).write_bytes(ONNX.read_bytes())
    (tmp_path / "weights" / "compact.safetensors").write_bytes(b"other weights")
    with pytest.raises(UserError, match=r"compact\.onnx was not made of compact\.safetensors"):
        onnx_generator.load_onnx()


# --- which of the two


def test_torch_is_asked_where_onnxruntime_cannot_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    assert generators._is_for_onnx("compact", "cpu") and generators._is_for_onnx(Path("compact"), "auto")
    assert not generators._is_for_onnx("weights.safetensors", "cpu")
    monkeypatch.setattr(generators, "device_name", lambda name: "cuda")
    assert not generators._is_for_onnx("compact", "auto")


def test_a_device_is_looked_for_only_where_there_is_a_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(device, "choose_device", lambda name: f"asked torch for {name}")
    monkeypatch.setattr(device, "DRIVERS", (str(tmp_path / "none"),))
    assert device.device_name("auto") == "cpu" and device.device_name("cpu") == "cpu"
    assert device.device_name("cuda:1") == "asked torch for cuda:1"
    monkeypatch.setattr(device, "DRIVERS", (str(tmp_path / "none"), str(tmp_path)))
    assert device.device_name("auto") == "asked torch for auto"
    monkeypatch.setattr(device, "is_there", lambda package: False)
    assert device.device_name("auto") == "cpu"


def test_info_tells_what_computes(capsys: pytest.CaptureFixture, request: pytest.FixtureRequest) -> None:
    for library in ("onnxruntime", "torch"):
        assert cli.main(["info", "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert library in facts and facts["parameters"] == "513,161" and facts["input side"] == "256"
        request.getfixturevalue("without_onnxruntime")
