"""Every task of `unseg evaluate` and who makes its learners. A row's module is imported when one of its networks is asked for, so
that a missing package hurts its own networks alone."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass

from unseg.errors import UserError
from unseg.evaluation.learner import MakeLearner
from unseg.victims import semantic_networks


@dataclass(frozen=True)
class Row:
    """Networks of one module. pattern: of their names, whole. listed: their names in words, for messages. make: a function of
    `module` (under unseg.evaluation.tasks), a `MakeLearner`; it raises UserError where a name fits the pattern but is none. check: a
    function of unseg.victims.semantic_networks that says so before any data is read."""

    pattern: str
    listed: str
    module: str
    make: str
    check: str | None = None


SMP_NAMES = r"(?!mask2former|maskrcnn|fasterrcnn|deeplabv1)[a-z0-9]+_[a-z0-9_-]+"
SMP_LISTED = (
    "ARCHITECTURE_ENCODER of segmentation_models_pytorch (unet, unetplusplus, fpn, pspnet, deeplabv3plus, segformer, "
    "upernet, …"
    " with resnet18, resnet34, resnet50, mobilenet_v2, mit_b0, …; such as unetplusplus_resnet34), segformer_b0, "
    "torchvision_deeplabv3_resnet50"
)

TASKS: dict[str, tuple[Row, ...]] = {
    "semantic": (
        Row(r"deeplabv1_\w+", "deeplabv1_resnet38", "deeplabv1", "make_deeplabv1"),
        Row(r"mask2former_\w+", "mask2former_swin_t, mask2former_tiny", "region_tasks", "make_semantic"),
        Row(SMP_NAMES, SMP_LISTED, "semantic", "make_semantic", "check_network"),
    ),
    "instance": (
        Row(
            r"\w+",
            "mask2former_swin_t, mask2former_tiny, maskrcnn_resnet50_fpn, maskrcnn_mobilenet",
            "region_tasks",
            "make_instance",
        ),
    ),
    "panoptic": (Row(r"\w+", "mask2former_swin_t, mask2former_tiny", "region_tasks", "make_panoptic"),),
    "detection": (
        Row(
            r"\w+",
            "deformable_detr_resnet50, rt_detr_resnet50, fasterrcnn_resnet50_fpn, …",
            "region_tasks",
            "make_detection",
        ),
    ),
    "interactive": (
        Row(
            r"\w+", "sam_vit_b, samhq_vit_b (l and h as well), sam_tiny, samhq_tiny", "interactive", "make_interactive"
        ),
    ),
    "medical": (Row(SMP_NAMES, SMP_LISTED, "medical", "make_medical", "check_network"),),
    "remote": (
        Row(
            r"\w+",
            "mask2former_swin_t, mask2former_tiny, maskrcnn_resnet50_fpn, maskrcnn_mobilenet",
            "region_tasks",
            "make_remote",
        ),
    ),
}


def check_task(task: str) -> None:
    """Raises UserError where there is no such task."""
    if task not in TASKS:
        raise UserError(
            f"--task {task}: there is no such task; available: {', '.join(TASKS)}, and binary or classes with --data"
        )


def find_maker(task: str, network: str) -> MakeLearner:
    """What makes the learners of a network; UserError where the task has no such network or its package is missing."""
    check_task(task)
    for row in TASKS[task]:
        if re.fullmatch(row.pattern, network, re.ASCII):
            if row.check is not None:
                getattr(semantic_networks, row.check)(network)
            try:
                return getattr(importlib.import_module(f"unseg.evaluation.tasks.{row.module}"), row.make)
            except ImportError as error:
                raise UserError(
                    f"--networks {network}: package {error.name} is not installed; run: pip install 'unseg[evaluate]'"
                ) from None
    raise UserError(
        f"--networks: unknown network '{network}' of task {task}; available: "
        f"{', '.join(row.listed for row in TASKS[task])}"
    )
