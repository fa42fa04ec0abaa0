"""What runs on GPUs, as far as a CPU can show: that every copy and kernel waits for what it needs, that graphs are dropped
with a reason, and which settings a run ends up with."""

from __future__ import annotations

import shutil
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from segment_anything_training import image_encoder
from segment_anything_training.compact import CompactGenerator
from segment_anything_training.generator import NoiseGenerator
from segment_anything_training.sam import SamConfig
from unseg.compute.gpu import Graphs, Lane
from unseg.errors import UserError
from unseg.protecting import pipeline, protector
from unseg.protecting.protector import Protector
from unseg.protecting.settings import ProtectSettings

CPU = torch.device("cpu")


class LazyCuda:
    """Streams as late as they may be: what is put on one happens when an event after it is waited for, and not before.

    A missing wait then shows as data that is not there. missing: the index of a wait that is left out. hasty: the computing
    stream, instead, does everything at once for which it need not wait.
    """

    def __init__(self, missing: int | None = None, hasty: bool = False) -> None:
        self.computing, self.waits, self.missing, self.active = LazyStream(self, hasty), 0, missing, None

    def Stream(self, device):
        return LazyStream(self)

    def Event(self):
        return LazyEvent(self)

    def current_stream(self, device):
        return self.active or self.computing

    @contextmanager
    def stream(self, stream):
        before, self.active = self.active, stream
        try:
            with Deferred(stream):
                yield
        finally:
            self.active = before

    def counted_wait(self) -> bool:
        self.waits += 1
        return self.waits - 1 != self.missing


class LazyStream:
    def __init__(self, cuda, hasty: bool = False) -> None:
        self.cuda, self.work, self.hasty = cuda, deque(), hasty

    def wait_event(self, event) -> None:
        if self.cuda.counted_wait():
            recorded = event.recorded  # as in CUDA: what it stands for now
            self.put(lambda: recorded[0].run_until(recorded[1]))

    def wait_stream(self, stream) -> None:
        pass  # memory of tests is never given out twice

    def put(self, work) -> None:
        if self.hasty:
            work()
        else:
            self.work.append(work)

    def run_until(self, mark) -> None:
        while self.work and not mark.done:
            self.work.popleft()()


class LazyEvent:
    def __init__(self, cuda) -> None:
        self.cuda = cuda

    def record(self, stream) -> None:
        mark = SimpleNamespace(done=False)
        stream.put(lambda: setattr(mark, "done", True))
        self.recorded = stream, mark

    def synchronize(self) -> None:
        if self.cuda.counted_wait():
            stream, mark = self.recorded
            stream.run_until(mark)


class Deferred(TorchDispatchMode):
    """Inside, copies are put on a stream and not made."""

    def __init__(self, stream) -> None:
        super().__init__()
        self.stream = stream

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.copy_.default:
            self.stream.put(lambda: function(*args, **kwargs or {}))
            return args[0]
        return function(*args, **kwargs or {})


def through_lane(lane: Lane, cuda: LazyCuda, value: float, count: int = 2) -> torch.Tensor:
    """A lane's result for `count` images of `value`: twice the value, computed on the computing stream, late as all else."""
    result = torch.full((3, 4), -1.0)

    def compute(batch):
        cuda.computing.put(lambda: torch.mul(batch["image"], 2, out=result))
        return result

    def keep(self, source):  # the copy of the result, on the computing stream
        cuda.computing.put(lambda: original(self, source))
        return self

    original, rows = torch.Tensor.copy_, [torch.full((1, 4), value) for _ in range(count)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.Tensor,
            "copy_",
            lambda self, source, **named: (keep if cuda.active is None else original)(self, source),
        )
        return lane.run({"image": rows}, compute, nullcontext())


@pytest.mark.parametrize("hasty", [False, True])
def test_a_lane_brings_a_batch_there_and_back_and_uses_its_buffers_again(hasty: bool) -> None:
    cuda = LazyCuda(hasty=hasty)
    lane = Lane(CPU, 3, cuda)
    first = through_lane(lane, cuda, 1.0)
    buffers = {name: (pair.pinned.data_ptr(), pair.on_device.data_ptr()) for name, pair in lane.buffers.items()}
    second = through_lane(lane, cuda, 5.0, count=1)
    assert first.tolist() == [[2.0] * 4] * 2 + [[0.0] * 4]
    assert second.tolist() == [[10.0] * 4] + [[0.0] * 4] * 2  # zeros where the first batch had an image
    assert buffers == {name: (pair.pinned.data_ptr(), pair.on_device.data_ptr()) for name, pair in lane.buffers.items()}
    assert cuda.waits == 6 and len(buffers) == 2


@pytest.mark.parametrize(("missing", "hasty"), [(0, True), (1, False), (2, False)])
def test_each_of_the_waits_is_needed(missing: int, hasty: bool) -> None:
    """Without waiting for the input, for the computing, or in the end for the copy, the result is not the result."""
    cuda = LazyCuda(missing, hasty)
    assert through_lane(Lane(CPU, 3, cuda), cuda, 1.0).tolist() != [[2.0] * 4] * 2 + [[0.0] * 4]


class RecordingCuda(LazyCuda):
    """Graphs that call the function again when they are replayed. spoils: a replay gives other values."""

    def __init__(self, spoils: bool = False, fails: str = "") -> None:
        super().__init__()
        self.spoils, self.fails, self.replays = spoils, fails, 0

    def CUDAGraph(self):
        return SimpleNamespace(replay=lambda: self._replay())

    def _replay(self) -> None:
        self.replays += 1
        self.result.copy_(self.function(self.inputs) + (0.5 if self.spoils else 0))

    device = stream = staticmethod(lambda device: nullcontext())

    @contextmanager
    def graph(self, graph, capture_error_mode):
        assert capture_error_mode == "thread_local"
        if self.fails:
            raise RuntimeError(self.fails)
        yield

    def watch(self, function):
        def watched(inputs):
            self.function, self.inputs, self.result = function, inputs, function(inputs)
            return self.result

        return watched


def double(batch):
    return batch["image"] * 2


def test_a_graph_is_recorded_once_for_each_kind_of_batch() -> None:
    cuda = RecordingCuda()
    graphs = Graphs(cuda.watch(double), CPU, cuda)
    for value in (1.0, 3.0):
        assert graphs({"image": torch.full((2, 2), value)}).tolist() == [[2 * value] * 2] * 2
    assert cuda.replays == 3 and len(graphs.recorded) == 1 and graphs.dropped is None  # one replay was the check
    with_boxes = graphs({"image": torch.ones(2, 2), "boxes": torch.ones(2, 4)})
    assert len(graphs.recorded) == 2 and with_boxes.tolist() == [[2.0] * 2] * 2


@pytest.mark.parametrize(
    ("cuda", "reason"),
    [
        (
            RecordingCuda(fails="operation not permitted when stream is capturing\nmore"),
            "RuntimeError: operation not permitted when stream is capturing",
        ),
        (RecordingCuda(spoils=True), "ValueError: a replay differs from the plain call by 0.5"),
    ],
    ids=["fails", "differs"],
)
def test_a_graph_that_does_not_work_is_dropped_with_its_reason(cuda: RecordingCuda, reason: str) -> None:
    graphs = Graphs(cuda.watch(double), CPU, cuda)
    for value in (1.0, 3.0):
        assert graphs({"image": torch.full((2, 2), value)}).tolist() == [[2 * value] * 2] * 2
    assert graphs.dropped == reason and not graphs.recorded


# What a run ends up with

TINY = SamConfig(128, embed_dim=64, depth=2, num_heads=2, global_blocks=(1,), window=4)


def test_a_dropped_graph_is_noted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Protector(CompactGenerator())
    cuda = RecordingCuda(fails="no graphs here")
    made._graphs = Graphs(cuda.watch(made._ask), CPU, cuda)
    framed, notes = [made.frame(protector.probe(0), torch.ones(512, 512, dtype=torch.bool).numpy())], []
    plain = Protector(made.network).noise(framed)
    assert torch.equal(made.noise(framed, notes), plain) and torch.equal(made.noise(framed, notes), plain)
    assert notes == ["computed without --graph: RuntimeError: no graphs here"]


def test_batches_fit_into_half_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, sizes = torch.device("cuda"), []
    for gibibytes in (80, 8, 4, 0.5):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (gibibytes * 2**30, 80 * 2**30))
        sizes.append((pipeline.default_batch_size(gpu, 1024), pipeline.default_batch_size(gpu, 256)))
    assert sizes == [(8, 32), (8, 32), (4, 32), (1, 8)]
    assert pipeline.default_batch_size(CPU, 1024) == 1


def test_auto_is_float32_where_nothing_is_to_be_won() -> None:
    said: list[str] = []
    for network in (CompactGenerator(), NoiseGenerator(TINY)):
        assert pipeline.settled(ProtectSettings(precision="auto"), network, CPU, said.append).precision == "float32"
    settings = ProtectSettings(precision="auto")
    assert pipeline.settled(settings, CompactGenerator(), torch.device("cuda"), said.append).precision == "float32"
    assert not said


def test_a_graph_needs_a_gpu() -> None:
    with pytest.raises(UserError, match="--graph: only a GPU records CUDA graphs; leave it out, or give --device cuda"):
        pipeline.settled(ProtectSettings(graph=True), CompactGenerator(), CPU, print)
    with pytest.raises(
        UserError, match="--attention flex: FlexAttention is for GPUs; leave it out, or give --device cuda"
    ):
        pipeline.settled(ProtectSettings(attention="flex"), CompactGenerator(), CPU, print)


def test_unknown_attention_and_a_missing_compiler_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--attention fast: choose from auto, folded, flex, bias, fastest"):
        ProtectSettings(attention="fast")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        UserError, match="--compile: .* there is no no-such-compiler; install one, or leave --compile out"
    ):
        ProtectSettings(compile=True)
    with pytest.raises(UserError, match="--attention flex: .* leave --attention flex out"):
        ProtectSettings(attention="flex")


def test_large_photographs_make_small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    made = pipeline.Pipeline.__new__(pipeline.Pipeline)
    made.protector = SimpleNamespace(batch_size=3)
    monkeypatch.setattr(made, "_pixels_of", lambda job: job, raising=False)
    taken: list[int] = []

    def jobs():
        for job in (1, 2, 3, 40_000_000, 7_000_000, 9_000_000, 50_000_000, 5):
            taken.append(job)
            yield job

    groups = made._groups(jobs())
    assert next(groups) == ([1, 2, 3], 6) and taken == [1, 2, 3]  # nothing is taken before there is room for it
    assert [group for group, _ in groups] == [[40_000_000, 7_000_000], [9_000_000], [50_000_000], [5]]


def test_lanes_take_turns() -> None:
    """Two threads with a lane each: every image has the noise that it has alone, and one network call runs at a time."""
    cuda, running = LazyCuda(), []
    made = Protector(CompactGenerator(), batch_size=2)
    framed = [
        made.frame(protector.probe(seed)[:64, :80], torch.ones(64, 80, dtype=torch.bool).numpy()) for seed in range(4)
    ]
    alone = [made.noise([item])[0] for item in framed]
    lock = threading.Lock()

    def compute(batch):
        assert not running
        running.append(1)
        noise = made._compute(batch, [])
        running.pop()
        return noise

    class Immediate(LazyCuda):
        stream = staticmethod(lambda stream: nullcontext())

    lanes = [Lane(CPU, 2, Immediate()) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        halves = list(
            pool.map(
                lambda index: [
                    lanes[index].run(
                        {
                            "image": [framed[2 * group + index].image],
                            "masks": [framed[2 * group + index].prompts.masks],
                        },
                        compute,
                        lock,
                    )[0]
                    for group in range(2)
                ],
                range(2),
            )
        )
    for index, half in enumerate(halves):
        for group, noise in enumerate(half):
            assert torch.equal(noise, alone[2 * group + index])
    assert cuda.waits == 0


# torch.compile


def framed_probe(made: Protector) -> list[protector.Framed]:
    return [made.frame(protector.probe(0), torch.ones(512, 512, dtype=torch.bool).numpy())]


@pytest.mark.slow
@pytest.mark.skipif(not any(shutil.which(compiler) for compiler in ("g++", "clang++")), reason="no C++ compiler")
def test_a_compiled_network_makes_the_same_pixels() -> None:
    torch.manual_seed(0)
    network = CompactGenerator(widths=(8,))
    image, notes = protector.probe(0), []
    plain, compiled = Protector(network)(image), Protector(network, compiled=True)
    compiled.noise(framed_probe(compiled), notes)
    assert not notes and network._compiled_call_impl is not None
    change = np.abs(compiled(image).astype(int) - plain)
    assert (change > 0).mean() <= 0.001 and change.max() <= 1 and (plain != image).any()


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ("raises", "computed without --compile: RuntimeError: no such instruction"),
        ("spoils", "computed without --compile: noise differs by "),
    ],
)
def test_a_network_that_does_not_compile_computes_plainly(
    compiler: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, notes = CompactGenerator(), []
    plain = Protector(network).noise(framed_probe(Protector(network)))

    def badly_compiled(function, **settings):
        def call(*given):
            if compiler == "raises":
                raise RuntimeError("no such instruction\nand more")
            return function(*given) * 0.9

        return call

    monkeypatch.setattr(torch, "compile", badly_compiled)
    made = Protector(network, compiled=True)
    for _ in range(2):
        assert torch.equal(made.noise(framed_probe(made), notes), plain)
    assert len(notes) == 1 and notes[0].startswith(reason)


@pytest.mark.parametrize("works", [True, False])
def test_a_form_of_attention_that_does_not_work_here_is_not_taken(works: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network, notes = NoiseGenerator(TINY), []
    plain = Protector(network).noise(framed_probe(Protector(network)))

    def folded(*given):
        if not works:
            raise NotImplementedError("no kernel for this card")
        return image_encoder.bias_attention(*given)

    monkeypatch.setattr(image_encoder, "folded_attention", folded)
    made = Protector(network, attention="folded")
    for _ in range(2):
        torch.testing.assert_close(made.noise(framed_probe(made), notes), plain, rtol=0, atol=1e-5)
    assert network.image_encoder.blocks[0].attn.form == ("folded" if works else "auto")
    assert notes == (
        [] if works else ["computed without --attention folded: NotImplementedError: no kernel for this card"]
    )
