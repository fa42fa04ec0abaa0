"""Weight files of strangers: anything but a fitting file is one line, at once and in little memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from segment_anything_training.build import build_generator
from tests.support.own_memory import peak_memory_mib
from tests.support.weight_hostile import write_hostile_weights
from unseg.errors import UserError
from unseg.storage.files import printable
from unseg.storage.state_files import read_state
from unseg.storage.weights import expected_shapes, load_generator, read_mae, read_sam, save_generator
from unseg.victims.pretrained import read_weights

FACTS = {"network": "compact", "format_version": "1"}
WITHIN = 10.0  # seconds for one file on a busy machine; most take a hundredth of one


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The state of a compact generator."""
    path = tmp_path_factory.mktemp("whole") / "compact.safetensors"
    save_generator(build_generator("compact"), "compact", path)
    return load_file(path)


@pytest.fixture(scope="module")
def hostile(whole: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return list(write_hostile_weights(tmp_path_factory.mktemp("hostile"), whole, FACTS))


def one_line(read: Callable[[Path], object], path: Path) -> str:
    begun = time.monotonic()
    with pytest.raises(UserError) as caught:
        read(path)
    told = printable(str(caught.value))
    assert time.monotonic() - begun < WITHIN, path
    assert str(path) in str(caught.value) and "\n" not in told and len(told) < len(str(path)) + 600, told
    return told


def test_every_hostile_file_is_one_line_where_a_generator_is_asked_for(hostile: list[Path]) -> None:
    expected_shapes("vit_b")  # what is imported for it takes time and memory of its own
    before = peak_memory_mib()
    assert len(hostile) > 70
    for path in hostile:
        one_line(load_generator, path)
    assert peak_memory_mib() - before < 512


@pytest.mark.parametrize(
    "read",
    [read_sam, lambda path: read_mae(path, {"pos_embed": (1, 2, 2, 8)})],
    ids=["sam", "mae"],
)
def test_every_hostile_file_is_one_line_for_readers_of_published_weights(
    read: Callable[[Path], object], hostile: list[Path]
) -> None:
    """`read_sam` alone compares nothing, so whatever is sound by itself passes there."""
    sound = ("sizes", "escapes", "long ", "empty", "too many", "no entries", "offset below")
    for path in hostile:
        if read is read_sam and path.name.startswith(sound):
            continue
        one_line(read, path)


def test_no_hostile_tensor_gets_to_a_victim(hostile: list[Path]) -> None:
    """What is read is an ordinary state; the network's own shapes are compared after that."""
    for path in hostile:
        try:
            state = read_weights(path)
        except UserError as error:
            assert "\n" not in str(error), path
            continue
        assert all(type(tensor) in (torch.Tensor, torch.nn.Parameter) for tensor in state.values()), path
        assert all(tensor.device.type == "cpu" and tensor.dim() <= 8 for tensor in state.values()), path


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_fractions_are_read(kind: torch.dtype, whole: dict[str, torch.Tensor], tmp_path: Path) -> None:
    other = {name: tensor.to(kind) for name, tensor in whole.items()}
    save_file(other, tmp_path / "a.safetensors", FACTS)
    loaded = load_generator(tmp_path / "a.safetensors").network.state_dict()
    assert all(torch.equal(loaded[name], tensor.float()) for name, tensor in other.items())


def test_odd_but_sound_pickles_are_read(tmp_path: Path) -> None:
    """Parameters, tied entries, views and whole numbers where a network counts."""
    tied = torch.arange(6.0)
    state = {
        "a": torch.nn.Parameter(torch.ones(2)),
        "b": tied,
        "c": tied,
        "d": torch.arange(12.0).reshape(3, 4).T,
        "norm.num_batches_tracked": torch.tensor(7),
        "index": torch.arange(3, dtype=torch.int32),
    }
    torch.save(state, tmp_path / "a.pth")
    read = read_state(tmp_path / "a.pth")
    assert read.keys() == state.keys() and all(torch.equal(read[name], state[name]) for name in state)


def test_a_file_that_is_read_may_be_removed(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(1000.0)}, tmp_path / "a.pth")
    read = read_state(tmp_path / "a.pth")
    (tmp_path / "a.pth").unlink()
    assert torch.equal(read["a"], torch.arange(1000.0))
