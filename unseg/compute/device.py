"""Where networks run, and in which precision. Torch is loaded only where it is asked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from unseg.errors import UserError, is_there, naming_the_extra

if TYPE_CHECKING:
    import torch

# One of these is there wherever torch can see a GPU: drivers of NVIDIA (Linux, WSL, Windows) and AMD.
DRIVERS = ("/dev/nvidiactl", "/dev/dxg", f"{os.environ.get('SYSTEMROOT', '')}/System32/nvcuda.dll", "/dev/kfd")


def device_name(name: str) -> str:
    """Returns the name of the device that `name` means, as `choose_device` has it: cpu, cuda or cuda:N.

    Torch, which takes seconds to load, is asked only where the system has a driver for GPUs.
    """
    if name == "cpu" or (name == "auto" and not (any(map(os.path.exists, DRIVERS)) and is_there("torch"))):
        return "cpu"
    return str(choose_device(name))


def choose_device(name: str) -> torch.device:
    """Returns the device of that name; `auto` is cuda where there is one, else cpu.

    A UserError says where the name is no device (auto, cpu, cuda, cuda:N), or torch sees no GPU.
    """
    with naming_the_extra(f"--device {name}"):
        import torch

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
    visible = visible_gpus()
    if not 0 <= count <= visible:
        raise UserError(f"--gpus {count}: torch sees {visible} here; give 0 (the CPU) to {visible}")
    if count and processes != 1:
        raise UserError(f"--gpus {count} --processes {processes}: every GPU has one process; leave --processes out")
    return "cuda" if count else "cpu"


def visible_gpus() -> int:
    """Returns how many GPUs torch sees; none where it is not installed."""
    if not is_there("torch"):
        return 0
    import torch

    return torch.cuda.device_count()


def in_bf16(precision: str, device: torch.device) -> bool:
    """Returns whether large products run in bfloat16 on the device. precision: auto, float32 or bf16.

    auto leaves processors at float32: most of them have no bfloat16 arithmetic, and so they compute what the published
    vectors hold.
    """
    if precision != "auto":
        return precision == "bf16"
    import torch

    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Counts numbers below the normal ones as zero within.

    They slow a processor down many times over and change no result that matters. The setting holds for the whole
    process.
    """
    import torch

    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
