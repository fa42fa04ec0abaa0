"""How networks that were trained on clean images see protected ones.

    python -m benchmarks.trained_networks --data-root DATA --set carparts --out runs/trained-networks.json

DeepLabV3+ with an EfficientNet-lite0 encoder from ImageNet weights learns the clean training images of a set as
`unseg bench` trains it, and is tested on the test images twice: as they are, and with the default noise of a key that
nothing else uses. `agreement` is the share of pixels that have the same answer both times.

Needs a set of `unseg bench` below the data root. 600 steps take ten minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.machine import machine
from unseg.commands.console import Terminal
from unseg.compute.progress import SILENT, Progress, track
from unseg.data.measuring_sets import measuring_set
from unseg.errors import UserError
from unseg.evaluation.learner import LearnerOptions
from unseg.evaluation.measuring_images import OpenedSet, open_measuring_set
from unseg.evaluation.on_the_way import object_rule
from unseg.evaluation.practice import IMAGENET, Practice
from unseg.evaluation.schedule import Schedule
from unseg.evaluation.sets import truth_by
from unseg.evaluation.sources import Sources
from unseg.evaluation.tasks.labelling import labelling_of
from unseg.evaluation.tasks.practice_semantic import answer_of, make_practice_semantic
from unseg.evaluation.trainer import train
from unseg.method.config import Budget
from unseg.method.metrics import class_iou, confusion_matrix, mean_iou
from unseg.storage.files import write_bytes

NETWORK = "deeplabv3plus_timm-tf_efficientnet_lite0"
WEIGHTS = IMAGENET
CODES = "codes"
OTHER_KEY = 1000  # the seed of the noise; those of `unseg bench` begin at 0


def seen_by(network: nn.Module, opened: OpenedSet, options: LearnerOptions, progress: Progress) -> dict[str, Any]:
    """Returns how a network answers to the test images of a set, as they are and with noise."""
    row, test, device = opened.row, opened.test, torch.device("cpu")
    truth = truth_by(object_rule(opened.rule, binary=row.binary, by_class=True))
    makes = Sources(opened.train, truth, opened.rule, Budget(), binary=row.binary, by_class=True, grey=row.grey)
    change = makes.coded(CODES).change_of(OTHER_KEY, progress)
    labelling, classes = labelling_of(opened.train, options), len(row.classes)
    clean, noised = (torch.zeros(classes, classes, dtype=torch.int64) for _ in range(2))
    same = pixels = 0
    for index, name in enumerate(track(progress, test.names, len(test.names), "testing")):
        image, annotated = test.pixels(index), test.annotated(index)
        labels = torch.from_numpy(labelling.class_map(annotated))
        answers = [answer_of(network, shown, device) for shown in (image, change(name, image, *truth(annotated)))]
        for confusion, answer in zip((clean, noised), answers, strict=True):
            confusion += confusion_matrix(labels, torch.from_numpy(answer), classes)
        same, pixels = same + int(np.count_nonzero(answers[0] == answers[1])), pixels + answers[0].size
    scores = (mean_iou(class_iou(confusion)) for confusion in (clean, noised))
    return {"miou": dict(zip(("clean", "protected"), scores, strict=True)), "agreement": same / pixels}


def measure(root: Path, name: str, schedule: Schedule, crop: int, *, progress: Progress = SILENT) -> dict[str, Any]:
    """Trains a network on a set's clean images and returns all figures; UserError where something is not there."""
    opened = open_measuring_set(root, measuring_set(name))
    if opened.row.enlarged is not None:
        raise UserError(f"--set {name}: its noise is made on large images; give carparts, camvid11, ccp or another")
    options = LearnerOptions(
        (crop, crop), rule=opened.rule, practice=Practice(crop, weights=WEIGHTS), progress=progress
    )
    learner = make_practice_semantic(NETWORK, opened.train, opened.test, options)
    network = train(learner, schedule, 0, progress=progress, what="training on clean images").network.eval()
    return {
        "machine": machine(),
        "set": name,
        "network": NETWORK,
        "steps": schedule.steps,
        "batch": schedule.batch,
        "crop": crop,
        **seen_by(network, opened, options, progress),
    }


def main(arguments: list[str] | None = None) -> int:
    assert __doc__
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trained_networks", description=__doc__.split("\n\n")[0])
    parser.add_argument("--data-root", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--set", default="carparts", help="default: carparts")
    parser.add_argument("--out", type=Path, help="JSON file of the figures; else they are printed")
    parser.add_argument("--steps", type=int, default=600, help="default: 600")
    parser.add_argument("--batch", type=int, default=6, help="default: 6")
    parser.add_argument("--crop", type=int, default=144, help="default: 144")
    parser.add_argument("--threads", type=int, default=1, help="of torch; default: 1")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        schedule = Schedule(steps=options.steps, batch=options.batch, eval_every=options.steps, decay="onecycle")
        found = measure(options.data_root, options.set, schedule, options.crop, progress=Terminal(to_stderr=True))
    except UserError as error:
        print(f"unseg: error: {error}", file=sys.stderr)
        return 2
    text = json.dumps(found, indent=1) + "\n"
    if options.out is None:
        sys.stdout.write(text)
    else:
        write_bytes(options.out, text.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
