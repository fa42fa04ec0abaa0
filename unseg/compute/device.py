"""Where networks run, and in which precision."""

from __future__ import annotations

import torch

from unseg.errors import UserError


def choose_device(name: str) -> torch.device:
    """Returns the device of that name; `auto` is cuda where there is one, else cpu.

    A UserError says where the name is no device (auto, cpu, cuda, cuda:N), or torch sees no GPU.
    """
    available = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: unknown; give auto, cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: give auto, cpu or cuda")
    if device.type == "cuda" and not available:
        raise UserError(f"--device {name}: torch sees no GPU here; give --device cpu")
    return device


def device_of_gpus(count: int, processes: int) -> str:
    """Returns the name of the device of so many GPUs with a process each; `cpu` for none.

    processes: as the user asked for them beside the GPUs. A UserError says where the two do not go together.
    """
    visible = torch.cuda.device_count()
    if not 0 <= count <= visible:
        raise UserError(f"--gpus {count}: torch sees {visible} here; give 0 (the CPU) to {visible}")
    if count and processes != 1:
        raise UserError(f"--gpus {count} --processes {processes}: every GPU has one process; leave --processes out")
    return "cuda" if count else "cpu"


def in_bf16(precision: str, device: torch.device) -> bool:
    """Returns whether large products run in bfloat16 on the device. precision: auto, float32 or bf16.

    auto leaves processors at float32: most of them have no bfloat16 arithmetic, and so they compute what the published
    vectors hold.
    """
    if precision != "auto":
        return precision == "bf16"
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
