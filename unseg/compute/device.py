"""Where networks run, and on how many threads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

from unseg.errors import UserError


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is cuda where there is one, else cpu."""
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
    """The device of so many GPUs with a process each; `cpu` for none. processes: as asked for beside it."""
    visible = torch.cuda.device_count()
    if not 0 <= count <= visible:
        raise UserError(f"--gpus {count}: torch sees {visible} here; give 0 (the CPU) to {visible}")
    if count and processes != 1:
        raise UserError(f"--gpus {count} --processes {processes}: every GPU has one process; leave --processes out")
    return "cuda" if count else "cpu"


def in_bf16(precision: str, device: torch.device) -> bool:
    """Whether large products run in bfloat16 on the device. precision: auto, float32 or bf16.

    auto leaves processors at float32, most of which have no bfloat16 arithmetic, and so compute as the published vectors do.
    """
    if precision != "auto":
        return precision == "bf16"
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def compiles(wanted: bool, option: str = "--set compile=true") -> bool:
    """`wanted`, where torch.compile finds the C++ compiler that it needs; UserError where it is wanted and there is none.

    option: what asked for it.
    """
    compilers = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++"]
    if wanted and not any(shutil.which(compiler) for compiler in compilers):
        raise UserError(
            f"{option}: torch.compile needs a C++ compiler, and there is no {' or '.join(compilers)}; "
            f"install one, or {'leave compile at false' if '=' in option else f'leave {option} out'}"
        )
    return wanted


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def single_threaded_pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads in each of which torch works alone.

    It shares no core with the others then, and frames and regions do not depend on the number of cores (how torch
    splits a resize among threads decides its last bit). The caller's own number of threads is as before in the end.
    """
    with threads_kept(), worker_threads(workers) as pool:
        yield pool


def worker_threads(workers: int, each: int = 1) -> ThreadPoolExecutor:
    """Threads in each of which torch uses `each`. The only way to make a pool: threads that were told nothing would each take
    as many as there are cores. The caller's number stays.
    """
    torch.get_num_threads()  # so that the caller has a number of its own before a worker changes the global one
    return ThreadPoolExecutor(workers, initializer=use_threads, initargs=(each,))


@contextmanager
def alone() -> Iterator[None]:
    """Inside, torch works on one thread for the caller, who leaves the work of networks to threads of its own.

    OpenMP gives every thread that asks for more than one a team. With a second team there are more threads than cores, and
    libgomp then lets all of them sleep after every operation: some 10,000 times an image with ViT-B.
    """
    with threads_kept():
        use_threads(1)
        yield


@contextmanager
def threads_kept() -> Iterator[None]:
    """The caller's number of torch's threads is as before in the end."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def use_threads(count: int) -> None:
    """Let torch use `count` threads for what the calling thread asks of it."""
    torch.get_num_threads()  # a thread takes over the global number once, when first asked; only then can it differ
    torch.set_num_threads(count)
