"""The benchmark of generation: figures of processes of known length and size, and one run of the real thing."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from segment_anything.modeling.image_encoder import Attention as SamAttention
from segment_anything.modeling.image_encoder import ImageEncoderViT
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import generation, machine, parts, plain_generation, sections, stage_clock, tables, timed_runs
from benchmarks.photographs import photographs
from benchmarks.timed_runs import Run, images_per_second, timed_process
from segment_anything_training.compact import CompactGenerator
from segment_anything_training.generator import NoiseGenerator
from segment_anything_training.sam import SamConfig
from unseg.compute.threads import cores
from unseg.errors import UserError
from unseg.method.config import Budget
from unseg.protecting.network_protector import NetworkProtector
from unseg.protecting.settings import ProtectSettings
from unseg.storage.image_decoding import read_image
from unseg.storage.image_headers import pixel_count

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[2]


def test_photographs_are_different_squares(tmp_path: Path) -> None:
    photographs(tmp_path / "a", 5)
    pixels = [read_image(path).pixels for path in sorted((tmp_path / "a").iterdir())]
    assert [image.shape for image in pixels] == [(512, 512, 3)] * 5
    assert not np.array_equal(pixels[0], pixels[4])  # of the same source
    assert min(image.std() for image in pixels) > 10


def test_a_process_is_timed_and_weighed() -> None:
    seconds, small = timed_process(["-c", "import time; time.sleep(0.5)"])
    assert 0.5 <= seconds < 20
    _, large = timed_process(["-c", "data = bytearray(200 * 2**20)"])
    assert 190 < large - small < 210


def test_a_failing_process_is_reported_with_its_last_words() -> None:
    with pytest.raises(UserError, match="exit code 3: no such generator"):
        timed_process(["-c", "import sys; print('no such generator'); sys.exit(3)"])


def test_rate_leaves_start_up_out() -> None:
    # 5 s of start-up and 0.1 s an image
    assert images_per_second(Run(100, 15.0, 1), Run(1000, 105.0, 1)) == pytest.approx(10)
    assert images_per_second(Run(2, 5.0, 1), Run(6, 4.9, 1)) is None


def test_the_plain_way_is_measured_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that gets slower from round to round; in the second, the clock cannot tell our rate."""
    ours, plain = iter([8.0, None, 3.0]), iter([4.0, 3.0, 2.0])
    order, stolen, clock = [], iter([10.0, 10.0, 10.0, 10.0, 10.0, 10.5]), iter([0.0, 1.0, 1.0, 2.0, 2.0, 3.0])

    def runs_of(root: Path, counts: tuple[int, int], generator: str, device: str, height: int, width: int) -> dict:
        assert (counts, generator, device, height, width) == ((1, 3), "weights", "cpu", 8, 9)
        order.append("ours")
        return {"runs": [{"images": 1}, {"images": 3}], "images_per_second": next(ours), "peak_mib": 100 + len(order)}

    def in_process(part: str, images: Path, weights: str, device: torch.device, root: Path) -> dict:
        assert (part, images.name, weights) == ("plain", "in", "weights")
        order.append("plain")
        return {"seconds": [1.0], "images_per_second": next(plain), "peak_mib": 200 - len(order), "encoder_tflops": 0.1}

    for name, fake in (("runs_of", runs_of), ("in_process", in_process), ("stolen_seconds", lambda: next(stolen))):
        monkeypatch.setattr(sections, name, fake)
    monkeypatch.setattr(timed_runs, "stolen_seconds", sections.stolen_seconds)
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    scale = dataclasses.replace(sections.QUICK, rounds=3)
    figures = sections.beside_plain(
        scale, tmp_path / "in", (1, 3), "weights", torch.device("cpu"), tmp_path, height=8, width=9
    )
    assert order == ["ours", "plain"] * 3
    assert [found["ratio"] for found in figures["rounds"]] == [2.0, None, 1.5] and figures["ratio"] == 1.75
    assert [found["stolen_share"] for found in figures["rounds"]] == [0.0, 0.0, 0.25]
    assert figures["images_per_second"] == 5.5 and figures["plain"]["images_per_second"] == 3.0
    assert (
        figures["peak_mib"] == 105 and figures["plain"]["peak_mib"] == 198 and figures["plain"]["seconds"] == [1.0] * 3
    )
    assert len(figures["runs"]) == 6 and timed_runs.median([None]) is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux tells it")
def test_time_that_the_host_took_away_is_read() -> None:
    steal = Path("/proc/stat").read_text().splitlines()[0].split()[8]  # after user … softirq
    assert 0 <= timed_runs.stolen_seconds() - int(steal) / os.sysconf("SC_CLK_TCK") < 60


TINY = SamConfig(128, embed_dim=64, depth=3, num_heads=2, global_blocks=(1,), window=4)


def test_operations_are_those_that_torch_counts() -> None:
    """Of segment_anything's own encoder, where the windows need no filling."""
    plain = ImageEncoderViT(
        img_size=128,
        patch_size=16,
        embed_dim=64,
        depth=3,
        num_heads=2,
        out_chans=256,
        use_rel_pos=True,
        window_size=4,
        global_attn_indexes=(1,),
    )
    with FlopCounterMode(display=False) as counter:
        plain(torch.zeros(1, 3, 128, 128))
    assert machine.encoder_operations(TINY) == counter.get_total_flops()


def test_the_plain_way_gives_the_same_noise_and_pixels(tmp_path: Path) -> None:
    """As `unseg protect --region published`, but for the JPEG that it writes; each image is timed, and each encoder
    call.
    """
    torch.manual_seed(0)
    network = NoiseGenerator(TINY).eval()
    photographs(tmp_path / "in", 3, height=90, width=140)
    paths = sorted((tmp_path / "in").iterdir())
    pixels = [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in paths]
    protector = NetworkProtector(copy.deepcopy(network), Budget(), "published")
    framed = [protector.frame(image, np.ones(image.shape[:2], bool)) for image in pixels]
    run = plain_generation.protect_plainly(paths, tmp_path / "out", network, Budget(), torch.device("cpu"))
    assert np.abs(run.noise.numpy() - protector.noise(framed[:1])[0]).max() <= 1e-5
    assert all(isinstance(block.attn, SamAttention) for block in network.image_encoder.blocks)
    assert len(run.seconds) == len(run.encoder_seconds) == 3
    assert all(0 < part < whole for part, whole in zip(run.encoder_seconds, run.seconds, strict=True))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["00000.jpg", "00001.jpg", "00002.jpg"]
    mask = np.zeros(pixels[0].shape[:2], bool)
    mask[20:70, 30:90] = True
    noise = torch.from_numpy(protector.noise([protector.frame(pixels[0], mask)])[0])
    plain = plain_generation._noised(pixels[0], mask.astype(np.float32), noise, protector.network.mask_size, Budget())
    ours = protector(pixels[0], mask)
    assert (plain != ours).mean() < 1e-3 and np.abs(plain.astype(int) - ours).max() <= 1 and (ours != pixels[0]).any()


def test_every_stage_is_timed_and_left_as_it_was(tmp_path: Path) -> None:
    photographs(tmp_path / "in", 5, height=64, width=64)
    before = [getattr(owner, name) for _, owner, name in stage_clock.STAGES]
    settings = ProtectSettings(noise="compact", device="cpu", workers=2)
    figures = stage_clock.stage_figures(tmp_path / "in", tmp_path / "out", settings)
    assert [getattr(owner, name) for _, owner, name in stage_clock.STAGES] == before
    calls = {name: stage["calls"] for name, stage in figures["stages"].items()}
    assert (
        calls.pop("manifest") == 5 + 1 and set(calls.values()) == {5} and len(calls) == 6
    )  # 5 results, announced together
    assert all(stage["processor_ms"] > 0 for stage in figures["stages"].values())
    assert figures["images"] == 5 and 0 <= figures["idle_share"] < 1 and figures["beside"] in calls


def test_time_with_several_questions_at_once_counts_once() -> None:
    assert stage_clock.covered([(4.0, 5.0), (0.0, 2.0), (1.0, 3.0), (1.5, 2.5)]) == 4.0  # 0 to 3 and 4 to 5
    assert stage_clock.covered([]) == 0.0


def test_a_stage_that_fails_is_timed_too() -> None:
    def fails() -> None:
        raise KeyError("a")

    clock = stage_clock.Clock()
    with pytest.raises(KeyError):
        clock.timed("write", fails)()
    assert clock.stages["write"].calls == 1


def test_noise_that_differs_is_no_comparison(tmp_path: Path) -> None:
    torch.save(torch.zeros(3, 4, 4), tmp_path / "a.pt")
    torch.save(torch.full((3, 4, 4), 9e-5), tmp_path / "b.pt")
    torch.save(torch.full((3, 4, 4), float("nan")), tmp_path / "c.pt")
    assert parts.noise_difference(tmp_path, ("a", "b"), CPU) == pytest.approx(9e-5)
    with pytest.raises(UserError, match="differ by nan"):
        parts.noise_difference(tmp_path, ("a", "c"), CPU)


def test_growth_by_a_machine_of_known_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3 s of start-up, 0.5 s a megapixel and process: every figure is known."""

    def protect_run(
        images: Path,
        count: int,
        out: Path,
        generator: str,
        device: str,
        processes: int = 1,
        on_cores: tuple[int, ...] | None = None,
    ) -> Run:
        paths = sorted(images.iterdir())
        assert len(paths) == count and (on_cores is None or len(on_cores) == processes)
        return Run(count, 3 + 0.5 / processes * sum(map(pixel_count, paths)) / 1e6, 100 + count)

    monkeypatch.setattr(timed_runs, "protect_run", protect_run)
    monkeypatch.setattr(sections, "product_rate", lambda on_cores: [0, 10, 15][len(on_cores)])
    figures = sections.growth_section(sections.QUICK, "compact", torch.device("cpu"), tmp_path)
    small = 64 * 64 / 1e6 * 0.5
    assert [found["images"] for found in figures["images"]] == [2, 4]
    assert [found["images_per_second"] for found in figures["images"]] == pytest.approx([1 / small] * 2)
    assert [found["peak_mib"] for found in figures["images"]] == [102, 104]
    assert figures["megapixels"][0.04]["images_per_second"] == pytest.approx(1 / 0.02, rel=0.01)
    assert figures["single"]["start_up"] == pytest.approx(3 + small)
    assert figures["single"]["seconds"] == pytest.approx(0.05 - small, rel=0.01)
    if cores() > 1:
        assert figures["scaling"]["ratio"] == pytest.approx(2) and figures["scaling"]["products"] == pytest.approx(1.5)
    assert list(tmp_path.iterdir()) == []
    written = json.loads(
        json.dumps(
            {"machine": machine.machine(), "device": "CPU", "matrix_tflops": {"float32": 0.1}, "growth": figures}
        )
    )
    assert tables.table(written).row_count > 8


def test_comparisons_of_growth_are_medians_of_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is slower by the round: 1, 2 and 6 s an image on one core, 1, 1 and 2 on two; 1 and 2 s for a tiny
    photograph, and then 9, and 4, 3 and 9.5 for a large one."""
    alone = iter((1.0, 4.0, 2.0, 3.0, 9.0, 9.5))
    rates = iter((1, 1, 2, 1, 6, 2))
    pace = []

    def protect_run(
        images: Path,
        count: int,
        out: Path,
        generator: str,
        device: str,
        processes: int = 1,
        on_cores: tuple[int, ...] | None = None,
    ) -> Run:
        if on_cores is None:
            return Run(count, next(alone), 100 + count)
        pace[:] = [next(rates)] if count == 2 else pace
        return Run(count, 3 + count * pace[0], 100 * processes)

    monkeypatch.setattr(timed_runs, "protect_run", protect_run)
    products = iter((10, 15, 10, 20, 10, 16))
    monkeypatch.setattr(sections, "product_rate", lambda on_cores: next(products))
    scale = dataclasses.replace(sections.QUICK, rounds=3)
    one = sections.alone(scale, "compact", torch.device("cpu"), tmp_path)
    assert [found["seconds"] for found in one["rounds"]] == [3, 1, 0.5] and (one["seconds"], one["start_up"]) == (1, 2)
    two = sections.scaling(scale, "compact", torch.device("cpu"), tmp_path, (0, 1))
    assert [found["ratio"] for found in two["rounds"]] == pytest.approx([1, 2, 3]) and two["ratio"] == pytest.approx(2)
    assert (two["one"], two["two"]) == pytest.approx((0.5, 1)) and two["products"] == pytest.approx(1.6)
    assert two["peak_mib"] == 200


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be put on a core here")
def test_products_of_two_processes_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.product_rate([min(os.sched_getaffinity(0))], 0.1) > 0
    monkeypatch.setattr(
        machine, "PRODUCTS", "import sys; print('ready', flush=True); sys.stdin.readline(); print(sys.argv[1])"
    )
    assert machine.product_rate([3, 5]) == 8  # each program claims its core's number as its rate


@pytest.mark.slow
def test_quick_benchmark_of_the_real_command(tmp_path: Path) -> None:
    """ViT's section holds every kind of process that the others start but one, which the test of stages has."""
    out = tmp_path / "figures.json"
    command = [
        "bash",
        str(ROOT / "scripts" / "benchmark.sh"),
        "generate",
        "--quick",
        "--only",
        "vit",
        "--device",
        "cpu",
    ]
    environment = os.environ | {"OUT": str(out), "UNSEG_SKIP_INSTALL": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    figures = json.loads(out.read_text())
    vit = figures["vit"]
    assert figures["quick"] is True and figures["matrix_tflops"]["float32"] > 0
    assert figures["machine"]["torch"] == torch.__version__
    assert [run["images"] for run in vit["runs"]] == list(sections.QUICK.vit_images)
    assert all(run["seconds"] > 0 and run["peak_mib"] > 100 for run in vit["runs"])
    assert vit["noise_difference"] <= 1e-4 and vit["plain"]["peak_mib"] > 100
    assert vit["encoder"]["encoder_tflops"] > 0 and vit["plain"]["encoder_tflops"] > 0
    assert "ratio to the plain way" in ran.stdout


def test_an_unknown_section_is_named(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert generation.main(["--only", "vit,all", "--out", str(tmp_path / "a.json")]) == 2
    assert "--only vit,all: choose from compact, vit, growth" in capsys.readouterr().err


def test_protecting_with_the_compact_generator_starts_without_sam() -> None:
    """segment_anything imports torchvision, which takes two of five seconds."""
    imports = "import sys, unseg.commands.protect, unseg.protecting.run; "
    program = imports + "print({'torchvision', 'segment_anything'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout == "set()\n"
    )


def test_each_precision_is_measured_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor: rates and pixels of both, and the reason where one of them fails."""
    monkeypatch.setattr(parts, "TIMED_BATCHES", 1)
    torch.manual_seed(0)
    network = NoiseGenerator(TINY).eval()
    photographs(tmp_path / "in", 2, height=90, width=140)
    paths = sorted((tmp_path / "in").iterdir())
    found = parts.ways(network, paths, CPU)
    assert list(found) == ["float32", "bfloat16"] and list(parts.ways(CompactGenerator(), paths, CPU)) == ["float32"]
    assert found["float32"]["same"] == 1 and found["float32"]["most"] == 0
    assert 0.9 < found["bfloat16"]["same"] < 1 and 1 <= found["bfloat16"]["most"] <= 3
    assert all(way[figure] > 0 for way in found.values() for figure in ("images_per_second", "encoder_tflops"))

    def failing(module: torch.nn.Module, given: object) -> None:
        if network.bf16:
            raise NotImplementedError("no kernel for this card\nand more")

    network.mask_decoder.register_forward_pre_hook(failing)
    failed = parts.ways(network, paths, CPU)["bfloat16"]
    assert failed == {"failed": "NotImplementedError: no kernel for this card"}
    rates = {name: found[name]["encoder_tflops"] / 0.4 for name in found}
    rows = tables.way_rows(found | {"broken": failed}, rates)
    assert [figure.split(", ")[1] for what, figure in rows if what == "    image encoder"] == [
        "40% of float32's rate",
        "40% of bfloat16's rate (goal: 35 %)",
    ]
    assert rows[-1] == ("  network, broken", "failed: NotImplementedError: no kernel for this card")
