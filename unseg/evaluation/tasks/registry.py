"""Every task of `unseg evaluate` and who makes its learners.

A row's module is imported when one of its networks is asked for, so that a missing package hurts its own networks
alone.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from unseg.compute.plugins import is_spec
from unseg.errors import UserError, naming_the_extra
from unseg.evaluation.learner import MakeLearner
from unseg.evaluation.results import PRACTICE
from unseg.victims.semantic_networks import check_network


@dataclass(frozen=True)
class TaskNetworks:
    """Networks of one module.

    pattern: of their names, whole. listed: their names in words, for messages. module, make: a function of a module
    under unseg.evaluation.tasks, a `MakeLearner`; it raises UserError where a name fits the pattern but is none.
    practice: what makes them where views are as in practice, as MODULE:FUNCTION; "" for the same function, None where
    they see whole images only. semantic: whether the networks are those of unseg.victims.semantic_networks, whose names
    are checked before any data is read.
    """

    pattern: str
    listed: str
    module: str
    make: str
    practice: str | None = ""
    semantic: bool = False


WHOLE = "whole"  # views of whole images, resized; the others are PRACTICE
OWN = r"[\w.]+:[\w.]+"
SMP_NAMES = rf"(?!mask2former|maskrcnn|fasterrcnn|deeplabv1)[a-z0-9]+_[a-z0-9_-]+|{OWN}"
REGION_NAMES = r"[\w-]+"
SMP_LISTED = (
    "ARCHITECTURE_ENCODER of segmentation_models_pytorch (unet, unetplusplus, fpn, pspnet, deeplabv3plus, segformer, "
    "upernet, …"
    " with resnet18, resnet34, resnet50, mobilenet_v2, mit_b0, …; such as unetplusplus_resnet34), segformer_b0, "
    "torchvision_deeplabv3_resnet50, or module:name of your own"
)
INSTANCE_LISTED = (
    "mask2former_swin_t, mask2former_tiny, maskrcnn_resnet50_fpn, maskrcnn_mobilenet, maskrcnn_ENCODER of "
    "segmentation_models_pytorch"
)

TASKS: dict[str, tuple[TaskNetworks, ...]] = {
    "semantic": (
        TaskNetworks(r"deeplabv1_\w+", "deeplabv1_resnet38", "deeplabv1", "make_deeplabv1", practice=None),
        TaskNetworks(
            r"mask2former_\w+",
            "mask2former_swin_t, mask2former_tiny",
            "mask2former_semantic",
            "make_mask2former_semantic",
        ),
        TaskNetworks(
            SMP_NAMES,
            SMP_LISTED,
            "semantic",
            "make_semantic",
            "practice_semantic:make_practice_semantic",
            semantic=True,
        ),
    ),
    "instance": (TaskNetworks(REGION_NAMES, INSTANCE_LISTED, "instance", "make_instance"),),
    "panoptic": (TaskNetworks(r"\w+", "mask2former_swin_t, mask2former_tiny", "panoptic", "make_panoptic"),),
    "detection": (
        TaskNetworks(
            REGION_NAMES,
            "deformable_detr_resnet50, rt_detr_resnet50, fasterrcnn_resnet50_fpn, fasterrcnn_ENCODER, …",
            "instance",
            "make_detection",
        ),
    ),
    "interactive": (
        TaskNetworks(
            r"\w+", "sam_vit_b, samhq_vit_b (l and h as well), sam_tiny, samhq_tiny", "interactive", "make_interactive"
        ),
    ),
    "medical": (TaskNetworks(SMP_NAMES, SMP_LISTED, "medical", "make_medical", semantic=True),),
    "remote": (TaskNetworks(REGION_NAMES, INSTANCE_LISTED, "instance", "make_remote"),),
}

# What each task trains where no network is named: a small one of its kind. With views as in practice it starts from
# ImageNet weights that a package brings; where whole images are seen at a small size, it is a network for that.
LITE = "timm-tf_efficientnet_lite0"
DEFAULT_NETWORKS = {
    "semantic": f"deeplabv3plus_{LITE}",
    "instance": f"maskrcnn_{LITE}",
    "panoptic": "mask2former_tiny",
    "detection": f"fasterrcnn_{LITE}",
    "interactive": "sam_tiny",
    "medical": f"deeplabv3plus_{LITE}",
    "remote": f"maskrcnn_{LITE}",
}
WHOLE_DEFAULTS = {
    **DEFAULT_NETWORKS,
    "semantic": "unet_resnet18",
    "instance": "maskrcnn_mobilenet",
    "detection": "fasterrcnn_mobilenet",
    "medical": "unet_resnet18",
    "remote": "maskrcnn_mobilenet",
}
BY_DEFAULT = ("semantic",)  # tasks whose views are as in practice unless something else is asked for


def _row(task: str, network: str) -> TaskNetworks | None:
    return next((row for row in TASKS.get(task, ()) if re.fullmatch(row.pattern, network, re.ASCII)), None)


def takes_practice(task: str, network: str) -> bool:
    """Returns whether a network of the task can be trained with views as in practice."""
    row = _row(task, network)
    return row is not None and row.practice is not None


def as_in_practice(views: str | None, preset: str | None, task: str, networks: Sequence[str]) -> bool:
    """Returns whether views are those of practice, rather than whole images resized.

    views, preset, networks: as the user gave them. By default semantic networks see views as in practice, unless a
    preset says how images are seen or none of them can. Raises UserError where some can and others cannot.
    """
    if views not in (None, PRACTICE, WHOLE):
        raise UserError(f"--views {views}: give {PRACTICE} or {WHOLE}")
    unable = [network for network in networks if not takes_practice(task, network)]
    without = preset is not None or task not in BY_DEFAULT or len(unable) == len(networks)
    if views == WHOLE or (views is None and without):
        return False
    if unable:
        raise UserError(f"--networks {unable[0]}: sees whole images only; give --views {WHOLE}")
    return True


def check_task(task: str) -> None:
    """Raises UserError where there is no such task."""
    if task in ("binary", "classes"):
        instead = "--task semantic --binary --objects IDS" if task == "binary" else "--task semantic"
        raise UserError(f"--task {task}: was removed in 0.2: give {instead} with --clean, --annotations and --test")
    if task not in TASKS:
        raise UserError(f"--task {task}: there is no such task; available: {', '.join(TASKS)}")


def find_maker(task: str, network: str, *, practice: bool = False) -> MakeLearner:
    """Returns what makes the learners of a network. practice: with views as in practice.

    Raises UserError where the task has no such network or a package is missing.
    """
    check_task(task)
    row = _row(task, network)
    if row is None:
        own = "networks of your own are for the tasks semantic and medical; " if is_spec(network) else ""
        raise UserError(
            f"--networks: unknown network '{network}' of task {task}; {own}available: "
            f"{', '.join(known.listed for known in TASKS[task])}"
        )
    if row.semantic:
        check_network(network)
    module, make = row.practice.split(":") if practice and row.practice else (row.module, row.make)
    with naming_the_extra(f"--networks {network}"):
        return getattr(importlib.import_module(f"unseg.evaluation.tasks.{module}"), make)
