"""What only a GPU has: copies that run beside its computing, and a network's whole work recorded as one CUDA graph.

`cuda` is `torch.cuda` everywhere; a test puts in its place one that needs no GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Batch = Mapping[str, Tensor]
Compute = Callable[[Batch], Tensor]

WARM_UPS = 3  # before a graph is recorded: libraries choose kernels and take their memory at the first calls
REPLAY_TOLERANCE = 1e-4  # of noise in [−1, 1]


@dataclass(frozen=True)
class _Pair:
    """A tensor of the CPU in pinned memory, which a GPU reads and writes by itself, and its like on the GPU."""

    pinned: Tensor
    on_device: Tensor


class Lane:
    """A batch's way to the GPU, through it and back. Two lanes in two threads keep it busy: one's copies run beside the
    other's computing.

    A lane carries one batch at a time: `run` returns when its result is on the CPU, so its buffers are free again. Every
    copy and kernel that needs another stream's result waits for that stream's event, on the GPU; the thread itself waits
    once, for the last one.
    """

    def __init__(self, device: torch.device, size: int, cuda: Any = torch.cuda) -> None:
        """size: images a batch."""
        self.device, self.size, self.cuda = device, size, cuda
        self.copies = cuda.Stream(device)
        self.arrived, self.computed, self.finished = cuda.Event(), cuda.Event(), cuda.Event()
        self.buffers: dict[tuple, _Pair] = {}

    def run(self, images: Mapping[str, Sequence[Tensor]], compute: Compute, turn: AbstractContextManager) -> Tensor:
        """What `compute` makes of the batch, on the CPU. images: by name, one tensor of leading side 1 for every image;
        the batch has zeros for those that are missing. turn: held while work is put on the computing stream.
        """
        batch = {
            name: self._buffer(name, (self.size, *rows[0].shape[1:]), rows[0].dtype) for name, rows in images.items()
        }
        for name, rows in images.items():
            torch.cat(list(rows), out=batch[name].pinned[: len(rows)])
            batch[name].pinned[len(rows) :].zero_()
        with self.cuda.stream(self.copies):
            for pair in batch.values():
                pair.on_device.copy_(pair.pinned, non_blocking=True)
            self.arrived.record(self.copies)
        with turn:
            computing = self.cuda.current_stream(self.device)
            computing.wait_event(self.arrived)
            result = compute({name: pair.on_device for name, pair in batch.items()})
            out = self._buffer("result", tuple(result.shape), result.dtype)
            out.on_device.copy_(result)  # the next batch may overwrite `result` as soon as the turn ends
            self.computed.record(computing)
        with self.cuda.stream(self.copies):
            self.copies.wait_event(self.computed)
            out.pinned.copy_(out.on_device, non_blocking=True)
            self.finished.record(self.copies)
        self.finished.synchronize()
        return out.pinned.clone()

    def _buffer(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> _Pair:
        """The same buffer for the same name, shape and type."""
        key = name, shape, dtype
        if key not in self.buffers:
            pinned = torch.empty(shape, dtype=dtype, pin_memory=self.device.type == "cuda")
            with self.cuda.stream(self.copies):  # memory that this stream may write to without waiting for another
                self.buffers[key] = _Pair(pinned, torch.empty(shape, dtype=dtype, device=self.device))
            # The computing stream writes results there: it must not overtake what this memory was used for before.
            self.cuda.current_stream(self.device).wait_stream(self.copies)
        return self.buffers[key]


class Graphs:
    """A function of a batch, recorded once for each kind of batch (names, shapes, types) and replayed: a GPU then takes all
    its kernels at once, in place of a thousand launches.

    The result is overwritten by the next call. Where recording fails, or a replay does not give what the function gives,
    the function itself is called from then on; `dropped` says why.
    """

    def __init__(self, compute: Compute, device: torch.device, cuda: Any = torch.cuda) -> None:
        self.compute, self.device, self.cuda = compute, device, cuda
        self.recorded: dict[tuple, tuple[Any, dict[str, Tensor], Tensor]] = {}
        self.dropped: str | None = None

    def __call__(self, batch: Batch) -> Tensor:
        kind = tuple((name, tuple(tensor.shape), tensor.dtype) for name, tensor in sorted(batch.items()))
        if self.dropped is None and kind not in self.recorded:
            try:
                self.recorded[kind] = self._record(batch)
            except (RuntimeError, ValueError) as error:  # of capturing, kernels and memory
                self.dropped = first_line(error)
        if self.dropped is not None:
            self.recorded.clear()
            return self.compute(batch)
        graph, inputs, result = self.recorded[kind]
        for name, tensor in inputs.items():
            tensor.copy_(batch[name])
        graph.replay()
        return result

    def _record(self, batch: Batch) -> tuple[Any, dict[str, Tensor], Tensor]:
        inputs = {name: tensor.clone() for name, tensor in batch.items()}
        computing = self.cuda.current_stream(self.device)
        aside = self.cuda.Stream(self.device)
        aside.wait_stream(computing)
        with self.cuda.stream(aside):
            for _ in range(WARM_UPS):
                expected = self.compute(inputs)
        computing.wait_stream(aside)
        expected = expected.clone()
        graph = self.cuda.CUDAGraph()
        # Other threads may pin memory or wait for their copies meanwhile: only this thread's calls must be recordable.
        with self.cuda.device(self.device), self.cuda.graph(graph, capture_error_mode="thread_local"):
            result = self.compute(inputs)
        graph.replay()
        far = float((result - expected).abs().max())
        if not far <= REPLAY_TOLERANCE and bool(expected.isfinite().all()):
            raise ValueError(f"a replay differs from the plain call by {far:.2g}")
        return graph, inputs, result


def first_line(error: BaseException) -> str:
    """What an error says, in one line, with its kind."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
