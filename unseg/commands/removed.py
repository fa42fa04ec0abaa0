"""Options that earlier versions had, and what takes their place."""

from __future__ import annotations

ONE_FORM = "each device computes in one exact form; leave it out"
REMOVED = {
    ("protect", "--attention"): ONE_FORM,
    ("protect", "--compile"): ONE_FORM,
    ("protect", "--graph"): ONE_FORM,
    ("evaluate", "--data"): "give --clean ROOT/images/train --annotations ROOT/labels/train --test ROOT/images/test "
    "--test-annotations ROOT/labels/test; for the binary task also --binary --objects 3,4",
    ("evaluate", "--object-classes"): "give --objects",
    ("evaluate", "--test-split"): "give the split's folder: --test ROOT/images/val --test-annotations ROOT/labels/val",
}


def removal(command: str, option: str) -> str | None:
    """Returns the sentence on an option that is gone; None where the command never had it."""
    instead = REMOVED.get((command, option))
    return None if instead is None else f"{option} was removed in 0.2: {instead}"
