"""How much of this project's noise the network of the defence `denoise` removes from photographs that it has not seen.

    python -m benchmarks.denoised --data-root DATA --out runs/denoised.json

The network learns from CCP's first 100 photographs but the last HELD_OUT of them, as the defence learns from all; the
figures are of those. By kind of noise, over all their pixels: `energy_left` is the squared distance from the clean
images after the network by that before it, so 0 is all removed, and 1 as bad as before; `removed` is the part of the
noise that the network takes away (its projection on the noise). `changed_clean` is the mean absolute change of clean
photographs, in grey levels, and `noise` that of the noise itself.

Needs the folder `ccp` below the data root. Takes four minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import machine
from unseg.commands.console import Terminal
from unseg.commands.evaluate import load_noise
from unseg.compute.progress import SILENT, Progress
from unseg.errors import UserError
from unseg.evaluation.defences.denoise import STEPS, VERSION, Denoiser, Pairs, denoised, train_denoiser
from unseg.evaluation.measuring_images import open_photographs
from unseg.evaluation.study_parts import denoising_of, noise_of_pair
from unseg.method.config import Budget
from unseg.storage.files import write_bytes

HELD_OUT = 16


def left_of(network: Denoiser, clean_HW3: np.ndarray, protected_HW3: np.ndarray) -> dict[str, float]:
    """Returns the figures of one photograph, as sums over its pixels."""
    clean, noise = clean_HW3.astype(np.float64), protected_HW3.astype(np.float64) - clean_HW3
    after = denoised(network, protected_HW3) - clean
    return {
        "left": float((after**2).sum()),
        "before": float((noise**2).sum()),
        "taken": float(((noise - after) * noise).sum()),
        "changed": float(np.abs(denoised(network, clean_HW3) - clean).sum()),
        "absolute": float(np.abs(noise).sum()),
        "values": float(clean.size),
    }


def figures_of(network: Denoiser, pairs: Pairs, kinds: list[str]) -> dict[str, dict[str, float]]:
    """Returns the figures by kind of noise. kinds: of each pair."""
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for kind, (clean, protected) in zip(kinds, pairs, strict=True):
        for name, value in left_of(network, clean, protected).items():
            sums[kind][name] += value
    return {
        kind: {
            "energy_left": round(found["left"] / found["before"], 3),
            "removed": round(found["taken"] / found["before"], 3),
            "changed_clean": round(found["changed"] / found["values"], 3),
            "noise": round(found["absolute"] / found["values"], 3),
        }
        for kind, found in sums.items()
    }


def measure(root: Path, steps: int, seed: int, *, progress: Progress = SILENT) -> dict[str, Any]:
    """Returns all figures."""
    photographs, budget = open_photographs(root), Budget()
    source = denoising_of(
        photographs, photographs.hash(), load_noise("compact", budget, "cpu"), budget, by_class=True, progress=progress
    )
    assert source.pairs is not None
    pairs = source.pairs()
    seen, held = pairs[:-HELD_OUT], pairs[-HELD_OUT:]
    kinds = [noise_of_pair(index) for index in range(len(seen), len(pairs))]
    network = train_denoiser(seen, steps, seed, progress=progress)
    return {
        "machine": machine(),
        "network": VERSION,
        "steps": steps,
        "seed": seed,
        "photographs": {"learned": len(seen), "held_out": len(held)},
        "by_noise": figures_of(network, held, kinds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True, help="folder that holds ccp")
    parser.add_argument("--out", type=Path, help="JSON file of the figures; else they are printed")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        found = measure(options.data_root, options.steps, options.seed, progress=Terminal(to_stderr=True))
        text = json.dumps(found, indent=2) + "\n"
        if options.out is None:
            sys.stdout.write(text)
        else:
            write_bytes(options.out, text.encode())
    except UserError as error:
        sys.exit(f"denoised: {error}")


if __name__ == "__main__":
    main()
