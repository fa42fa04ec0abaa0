"""Several processes that train together: who they are, what they share, how one's failure stops all.

`torchrun` (here: `unseg.compute.launch`) starts the processes and tells each its rank; `connect` joins them, over NCCL
on GPUs and over gloo on processors. A single process takes the same path and shares with nobody.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unseg.compute.device import choose_device
from unseg.errors import UserError

EXIT_PEER_FAILED = 3
"""Exit code of a process that stopped, without a word, because another one failed."""

CONNECT_WITHIN = timedelta(minutes=10)
# Above any single wait between two collectives, such as for a checkpoint on a slow disk; failures are found in seconds.
COLLECTIVE_WITHIN = timedelta(minutes=30)
LINGER = 2.0  # seconds by which the process that failed leaves first, so that the launcher reports its exit code
LOOK_EVERY = 0.5  # seconds between looks for a failure elsewhere
BUCKET_BYTES = 25 << 20  # gradients that travel together, as in DistributedDataParallel

Item = TypeVar("Item")


class PeerFailure(Exception):
    """Another process of the training failed, and said why; this one stops without a word."""


def shard(items: Sequence[Item], rank: int, size: int) -> Sequence[Item]:
    """Returns the part of process `rank` among `size`: every item is in exactly one part, once; none is added."""
    if not 0 <= rank < size:
        raise ValueError(f"rank {rank} of {size} processes")
    return items[rank::size]


@dataclass(frozen=True)
class World:
    """This process among those that train together. rank: from 0. size: how many. device: where this one computes."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def leads(self) -> bool:
        """Returns whether this process writes the files and talks to the person."""
        return self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Returns each value added over all processes, in float64; the same on each."""
        if self.size == 1:
            return [float(value) for value in values]
        return add_up(torch.tensor(values, dtype=torch.float64, device=self.device)).tolist()

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Returns the tensors of all processes, of equal shape and dtype, by rank, on the CPU; the same on each."""
        if self.size == 1:
            return [tensor.cpu()]
        own = tensor.to(self.device)
        parts = [torch.empty_like(own) for _ in range(self.size)]
        with collectives():
            dist.all_gather(parts, own)
            return [part.cpu() for part in parts]

    def from_first(self, text: str) -> str:
        """Returns the text of process 0, on every process. All wait for process 0, but it waits for none."""
        if self.size == 1:
            return text
        box = [text]
        with collectives():
            dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def barrier(self) -> None:
        """Waits until every process has come here."""
        self.sum([0.0])

    def share_state(self, network: nn.Module) -> None:
        """Gives every process the parameters and buffers of process 0."""
        if self.size == 1:
            return
        with collectives(), torch.no_grad():
            for tensor in network.state_dict().values():
                whole = tensor.contiguous()  # a collective takes memory as it lies, whatever the strides
                dist.broadcast(whole, src=0)
                tensor.copy_(whole)


@contextmanager
def collectives() -> Iterator[None]:
    """Raises PeerFailure where a call inside finds another process gone, as gloo says at once.

    Inside is what talks to the other processes, and nothing else.
    """
    try:
        yield
    except RuntimeError as error:  # torch's DistError and what gloo raises are RuntimeErrors
        raise PeerFailure(str(error).splitlines()[0]) from None


def add_up(tensor: Tensor) -> Tensor:
    """Returns the tensor, which becomes the sum of those of all processes, on the device that they compute on."""
    with collectives():
        dist.all_reduce(tensor)
    return tensor


class GradientMean:
    """Averages a network's gradients over the processes, the first buckets while backward still computes the others.

    It is a context around backward; on leaving it, every process has the same gradients. With one process it does
    nothing.

    It is not DistributedDataParallel: the players freeze in turn and are built anew in some recipes, which its wrapper
    does not follow, and its buckets change after the first backward, so that sums of three and more processes would
    round differently in a resumed run. Buckets here are fixed: parameters from the last to the first, as backward
    reaches them. They travel in that order on every process, also where some process has no gradient for a parameter
    (of a prompt that it did not draw). A parameter without gradient on all processes keeps none, so that its optimizer
    leaves it alone as with one process.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], world: World) -> None:
        self.world = world
        self._active = False
        self._buckets: list[list[nn.Parameter]] = []
        self._bucket_of: dict[nn.Parameter, int] = {}
        if world.size == 1:
            return
        room = 0
        for parameter in reversed(list(parameters)):
            size = parameter.numel() * parameter.element_size()
            if not self._buckets or size > room:
                self._buckets.append([])
                room = BUCKET_BYTES
            self._buckets[-1].append(parameter)
            room -= size
            self._bucket_of[parameter] = len(self._buckets) - 1
            parameter.register_post_accumulate_grad_hook(self._has_gradient)

    def __enter__(self) -> None:
        self._active = True
        self._missing = [len(bucket) for bucket in self._buckets]
        self._sent: list[tuple[Tensor, dist.Work]] = []

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._active = False
        if kind is not None:
            return
        with torch.no_grad():
            while len(self._sent) < len(self._buckets):
                self._send()
            for bucket, (flat, work) in zip(self._buckets, self._sent, strict=True):
                with collectives():
                    work.wait()
                self._unpack(bucket, flat)
        self._sent = []

    def _has_gradient(self, parameter: nn.Parameter) -> None:
        if not self._active:
            return
        self._missing[self._bucket_of[parameter]] -= 1
        with torch.no_grad():
            while len(self._sent) < len(self._buckets) and self._missing[len(self._sent)] == 0:
                self._send()

    def _send(self) -> None:
        """Starts the sum of the next bucket: its gradients, then for each whether this process has one."""
        bucket = self._buckets[len(self._sent)]
        parts = [torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in bucket]
        here = torch.tensor([parameter.grad is not None for parameter in bucket], dtype=parts[0].dtype).to(
            parts[0].device
        )
        flat = torch.cat([*(part.flatten() for part in parts), here])
        with collectives():
            self._sent.append((flat, dist.all_reduce(flat, async_op=True)))

    def _unpack(self, bucket: list[nn.Parameter], flat: Tensor) -> None:
        *parts, anywhere = flat.split([*(parameter.numel() for parameter in bucket), len(bucket)])
        for parameter, part, used in zip(bucket, parts, anywhere.tolist(), strict=True):
            if used:
                if parameter.grad is None:
                    parameter.grad = torch.empty_like(parameter)
                parameter.grad.copy_(part.view_as(parameter)).div_(self.world.size)


class _Alarm:
    """A flag that all processes see: somebody failed. It lies in the store through which they found each other.

    A thread watches it, because a process may hang in a collective that waits for the one that failed (NCCL's never
    returns). The thread ends this process if it does not end by itself, and also when the launcher is gone, because
    nobody else would stop its processes.
    """

    FAILED, TOLD = "unseg/failed", "unseg/told"

    def __init__(self, rank: int, size: int) -> None:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        try:
            self.store = dist.TCPStore(host, port, size, serves, CONNECT_WITHIN, wait_for_workers=False)
            self._watched = dist.TCPStore(host, port, size, False, CONNECT_WITHIN, wait_for_workers=False)
        except RuntimeError:
            raise UserError(
                f"process {rank}: cannot reach the first process at {host}:{port}; check MASTER_ADDR, the port and "
                "firewalls"
            ) from None
        self._over = threading.Event()
        self._parent = os.getppid()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def ring(self) -> None:
        """Tells all that somebody failed."""
        with suppress(RuntimeError):  # the process that served the store is gone, so it is known already
            self.store.set(self.FAILED, "")

    def first_to_tell(self) -> bool:
        """Returns whether no other process has told the person an error yet; then this one does."""
        try:
            return self.store.add(self.TOLD, 1) == 1
        except RuntimeError:  # as above
            return False

    def end(self) -> None:
        """Stops watching."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        failed = False
        while not self._over.wait(LOOK_EVERY):
            if os.getppid() != self._parent:
                os._exit(EXIT_PEER_FAILED)
            with suppress(RuntimeError):  # the store is gone: what that means, the next collective finds
                failed = self._watched.check([self.FAILED])
            if failed and not self._over.wait(2 * LINGER):
                os._exit(EXIT_PEER_FAILED)


@contextmanager
def connect(device: str = "auto") -> Iterator[World]:
    """Joins the processes that the launcher started; a World of one where there was none.

    device: auto, cpu or cuda. When one process fails inside, all stop within seconds. The first to fail raises its
    error; the others raise PeerFailure.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(device=choose_device(device))
        return
    rank = int(os.environ["RANK"])
    alarm, completed = _Alarm(rank, size), False
    try:
        world = World(rank, size, _own_device(device))
        if world.device.type == "cuda":
            torch.cuda.set_device(world.device)
        _import_what_would_keep_the_group()
        with collectives():
            dist.init_process_group(
                "nccl" if world.device.type == "cuda" else "gloo",
                rank=rank,
                world_size=size,
                store=dist.PrefixStore("group", alarm.store),
                timeout=COLLECTIVE_WITHIN,
            )
        yield world
        world.barrier()  # nobody leaves, and takes the store along, while others still work
        completed = True
    except UserError as error:
        alarm.ring()
        if not alarm.first_to_tell():
            time.sleep(LINGER)
            raise PeerFailure(str(error)) from None
        raise
    except PeerFailure:
        time.sleep(LINGER)
        raise
    finally:
        if not completed:
            alarm.ring()
        alarm.end()
        if completed:
            dist.destroy_process_group()


def _import_what_would_keep_the_group() -> None:
    """Imports a module of torch before there is a group, which its functions would take as default argument.

    Imported later (torch's optimizers do so at their first step), it holds the group past `destroy_process_group`.
    Gloo's threads then live on while the interpreter ends, and now and then the process ends with SIGABRT after its
    work was done.
    """
    importlib.import_module("torch.distributed.nn.functional")


def _own_device(name: str) -> torch.device:
    """Returns the device of this process; on a machine with several GPUs each takes the one of its local rank."""
    device = choose_device(name)
    if device.type != "cuda" or device.index is not None:
        return device
    local_rank, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local_rank >= gpus:
        raise UserError(f"NGPU: more processes than the {gpus} visible GPUs of this machine; start at most that many")
    return torch.device("cuda", local_rank)
