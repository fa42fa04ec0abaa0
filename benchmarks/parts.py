"""What the benchmark of generation measures in processes of their own, so that each one's peak memory is known."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.machine import encoder_operations
from benchmarks.plain_generation import clock_encoder, protect_plainly
from benchmarks.stage_clock import stage_figures
from benchmarks.timed_runs import timed_process
from segment_anything_training.build import is_sam_derived
from segment_anything_training.sam import mixed_precision
from unseg.errors import UserError
from unseg.method.config import Budget
from unseg.method.letterbox import Framed
from unseg.method.noise import apply
from unseg.protecting.network_protector import NetworkProtector
from unseg.protecting.network_source import default_batch_size
from unseg.protecting.settings import Precision, ProtectSettings
from unseg.protecting.torch_calls import reproducible
from unseg.storage.image_decoding import read_image
from unseg.storage.weights import load_generator

# The most that noise of equal networks differs. Fused kernels of GPUs may multiply float32 with 10 bits of mantissa.
EQUAL_NOISE = {"cpu": 1e-4, "cuda": 1e-2}


def run_part(part: str, images: Path, weights: str, device: torch.device, noise: Path) -> dict[str, Any]:
    """Returns the figures of one part: what a process of `in_process` does.

    "stages": a run whose stages are timed. "plain": the images the plain way. "encoder": this project's network, and
    the seconds of its image encoder; the first image is not counted in either. "ways": see `ways`. The parts "plain"
    and "encoder" leave the first image's noise in the file `noise`.
    """
    paths = sorted(images.iterdir())
    if part == "ways":
        return {"ways": ways(load_generator(weights, device).network, paths, device)}
    if part == "stages":
        return stage_figures(images, noise.parent / "stages", ProtectSettings(generator=weights, device=str(device)))
    network = load_generator(weights, device).network
    make = _plain_part if part == "plain" else _encoder_part
    figures, encoder_seconds = make(network, paths, device, noise)
    if encoder_seconds:
        figures["encoder_tflops"] = encoder_operations(network.config) / statistics.median(encoder_seconds) / 1e12
    if device.type == "cuda":
        figures["gpu_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    return figures


def _plain_part(
    network: Any, paths: Sequence[Path], device: torch.device, noise: Path
) -> tuple[dict[str, Any], list[float]]:
    """Returns the rate of the plain way, and the seconds of its image encoder."""
    run = protect_plainly(paths, noise.parent / "plain", network, Budget(), device)
    torch.save(run.noise, noise)
    seconds = run.seconds[1:]
    return {"seconds": seconds, "images_per_second": 1 / statistics.median(seconds)}, run.encoder_seconds[1:]


def _encoder_part(
    network: Any, paths: Sequence[Path], device: torch.device, noise: Path
) -> tuple[dict[str, Any], list[float]]:
    """Returns no figures but the seconds of the image encoder, one image after another."""
    protector, encoder_seconds = NetworkProtector(network, Budget(), device=str(device)), clock_encoder(network, device)
    for path in paths:
        image = read_image(path).pixels
        noises = protector.noise([protector.frame(image, np.ones(image.shape[:2], bool))])
        if path == paths[0]:
            torch.save(torch.from_numpy(noises[0]), noise)
    return {}, encoder_seconds[1:]


# The precisions of `unseg protect`. The first is what the other's pixels are compared with.
WAYS: tuple[Precision, ...] = ("float32", "bfloat16")
TIMED_BATCHES = 5
FAST = ("--precision", "bfloat16")  # of `unseg protect` on a GPU, beside its defaults


def ways(network: nn.Module, paths: Sequence[Path], device: torch.device) -> dict[str, dict[str, Any]]:
    """Returns what each precision makes of one batch of different photographs; framing is left out.

    images_per_second: of the network with the transfers to and from the device. batch: images in it. same and most: the
    share of unlearnable values that equal float32's, with everything the object, and the largest difference.
    encoder_tflops: of the image encoder called by itself, where there is one. failed: in place of all these, why a
    precision could not be measured. The compact generator computes in float32 alone.
    """
    size = default_batch_size(device.type, int(network.image_size))
    photos = [read_image(paths[index % len(paths)]).pixels for index in range(size)]
    masks = [np.ones(image.shape[:2], bool) for image in photos]
    found: dict[str, dict[str, Any]] = {}
    first: list[np.ndarray] = []
    for precision in WAYS if is_sam_derived(network) else WAYS[:1]:
        protector = NetworkProtector(network, Budget(), device=str(device), batch_size=size, precision=precision)
        framed = [protector.frame(image, mask) for image, mask in zip(photos, masks, strict=True)]
        try:
            noises = protector.noise(framed)
            seconds = [_timed(partial(protector.noise, framed)) for _ in range(TIMED_BATCHES)]
            encoder = _encoder_seconds(protector, framed) if is_sam_derived(network) else None
        except RuntimeError as error:  # of memory and kernels: the other precision can still be measured
            found[precision] = {"failed": f"{type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}"}
            continue
        made = [apply(image, one, mask, Budget()) for image, one, mask in zip(photos, noises, masks, strict=True)]
        first = first or made
        found[precision] = {"images_per_second": size / statistics.median(seconds), "batch": size}
        found[precision] |= _difference(made, first)
        if encoder is not None:
            found[precision]["encoder_tflops"] = size * encoder_operations(network.config) / encoder / 1e12
    return found


def _difference(made: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> dict[str, Any]:
    """Returns the share of values that are the same, and the largest difference in grey levels."""
    changes = [np.abs(one.astype(int) - other).ravel() for one, other in zip(made, expected, strict=True)]
    change = np.concatenate(changes)
    return {"same": float((change == 0).mean()), "most": int(change.max())}


def _encoder_seconds(protector: NetworkProtector, framed: Sequence[Framed]) -> float:
    """Returns the median call of a network's image encoder on the batch, in the precision that the network has."""
    network, device = protector.network, torch.device(protector.device)
    batch = torch.from_numpy(np.stack([item.image_3SS for item in framed])).to(device)

    def ask() -> None:
        with reproducible(), mixed_precision(device, network.bf16):
            network.image_encoder(network.normalise(batch))
            if device.type == "cuda":
                torch.cuda.synchronize(device)

    ask()
    return statistics.median(_timed(ask) for _ in range(TIMED_BATCHES))


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_process(part: str, images: Path, weights: str, device: torch.device, root: Path) -> dict[str, Any]:
    """Returns the figures of `run_part` in a process of its own, with its peak memory."""
    out = root / f"{part}.json"
    _, peak = timed_process(
        [
            "-m",
            "benchmarks.generation",
            "--part",
            part,
            "--images",
            str(images),
            "--generator",
            weights,
            "--device",
            str(device),
            "--noise",
            str(root / f"{part}.pt"),
            "--out",
            str(out),
        ]
    )
    return json.loads(out.read_text(encoding="utf-8")) | {"peak_mib": peak}


def noise_difference(root: Path, parts: Sequence[str], device: torch.device) -> float:
    """Returns the largest difference between the noises that two parts left; UserError where they are unequal."""
    one, other = (torch.load(root / f"{part}.pt", weights_only=True) for part in parts)
    difference = float((one - other).abs().max())
    if not difference <= EQUAL_NOISE[device.type]:
        raise UserError(
            f"the noise of {parts[0]} and of {parts[1]} differ by {difference:.2g}: their times cannot be compared"
        )
    return difference
