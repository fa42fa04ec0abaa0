"""DeepLabV1-ResNet38: the published network, entry for entry and number for number, and the files that it starts
from.
"""

from __future__ import annotations

import copy
import json
import runpy
import struct
import sys
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from conformance.fill_weights import fill_weights
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from torch import nn

from segment_anything_training.key_remaps import shapes_of
from tests.support.killed_runs import Killed, KillingAt
from tests.support.mxnet_files import VERSIONS, array_bytes, params_bytes
from tests.support.told_progress import Told
from unseg.compute.distributed import World
from unseg.data.annotations import ClassMap, ClassTable
from unseg.errors import UserError
from unseg.evaluation.learner import LearnerOptions
from unseg.evaluation.schedule import Schedule
from unseg.evaluation.tasks.deeplabv1 import CropView, DeepLabV1Learner, draw_views, make_deeplabv1
from unseg.evaluation.trainer import Checkpoint, train
from unseg.victims.mxnet_params import read_array, read_directory
from unseg.victims.resnet38 import DeepLabV1, backbone_shapes, load_weights, mxnet_name, read_mxnet

CONFORMANCE = Path(__file__).parents[1] / "conformance"
CONVERT = Path(__file__).parents[2] / "utils" / "convert_resnet38.py"
NARROW = 1 / 16


# --- the network -----------------------------------------------------------------------------------------------------


def test_state_is_that_of_the_published_network() -> None:
    with torch.device("meta"):
        network = DeepLabV1(21)
    published = json.loads((CONFORMANCE / "state_dict_deeplabv1.json").read_text())
    assert {name: list(tensor.shape) for name, tensor in network.state_dict().items()} == published
    assert list(network.state_dict()) == list(published)
    assert sum(parameter.numel() for parameter in network.parameters()) == 124_042_581


def test_logits_are_those_of_the_published_classes() -> None:
    network = DeepLabV1(5, NARROW).eval()
    fill_weights(network)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor += 1
        if tensor.ndim == 4:
            tensor *= 2
    c, i, j = torch.meshgrid(torch.arange(3), torch.arange(97), torch.arange(129), indexing="ij")
    image = torch.sin(i * (c + 1) / 7) + torch.cos(j * (c + 2) / 11)
    expected = safetensors.torch.load_file(CONFORMANCE / "deeplabv1_small.safetensors")["logits"]
    with torch.no_grad():
        torch.testing.assert_close(network(image[None]), expected, rtol=0, atol=1e-5 * expected.std().item())


def test_stride_is_8_at_the_published_crop() -> None:
    with torch.device("meta"):
        assert DeepLabV1(21)(torch.empty(1, 3, 321, 321)).shape == (1, 21, 41, 41)


def test_first_convolution_and_batch_norms_stay_frozen() -> None:
    network = DeepLabV1(3, NARROW).train()
    frozen = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)] + [network.conv1a]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    network(torch.randn(2, 3, 33, 33)).square().mean().backward()
    optimizer.step()
    assert len(frozen) == 38 and not any(module.training for module in frozen)  # 15 units with 2, 2 with 3, bn7, conv1a
    same = {name for name, tensor in network.state_dict().items() if torch.equal(tensor, before[name])}
    assert same == {name for name in before if "bn" in name or name == "conv1a.weight"}


def test_from_random_weights_all_of_it_can_learn() -> None:
    network = DeepLabV1(3, NARROW, frozen=False).train()
    assert all(module.training for module in network.modules()) and all(p.requires_grad for p in network.parameters())


def test_dropout_comes_before_the_last_two_convolutions_of_the_bottlenecks_alone() -> None:
    network = DeepLabV1(3, NARROW).train()
    calls: list[str] = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Dropout2d):
            module.register_forward_hook(lambda module, args, output, name=name: calls.append(f"{name} {module.p}"))
    network(torch.zeros(1, 3, 9, 9))
    assert calls == ["b6.drop 0.3", "b6.drop 0.3", "b7.drop 0.5", "b7.drop 0.5"]


@pytest.mark.parametrize("width", [0, -1, 1.5, float("nan")])
def test_impossible_widths_are_refused(width: float) -> None:
    with pytest.raises(UserError, match="width"):
        DeepLabV1(3, width)


# --- MXNet's file ----------------------------------------------------------------------------------------------------


def mxnet_arrays(width: float = NARROW) -> dict[str, np.ndarray]:
    """Random weights as MXNet's file has them, its names spelt out from the layout of the units: 2a, 2b1, 2b2, 3a, …"""
    generator = np.random.default_rng(0)
    shapes = backbone_shapes(width)
    units = {
        **{
            f"{level}{'a' if i == 0 else f'b{i}'}": f"b{level}" + (f"_{i}" if i else "")
            for level, count in {2: 3, 3: 3, 4: 6, 5: 3, 6: 1, 7: 1}.items()
            for i in range(count)
        }
    }
    found = {"arg:conv1a_weight": shapes["conv1a.weight"]}
    norms = {"bn7": "bn7"}
    for theirs, ours in units.items():
        branches = ("1", "2a", "2b1", "2b2")
        found |= {
            f"arg:res{theirs}_branch{branch}_weight": shapes[f"{ours}.conv_branch{branch}.weight"]
            for branch in branches
            if f"{ours}.conv_branch{branch}.weight" in shapes
        }
        norms |= {
            f"bn{theirs}_branch{branch}": f"{ours}.bn_branch{branch}"
            for branch in branches
            if f"{ours}.bn_branch{branch}.weight" in shapes
        }
    for theirs, ours in norms.items():
        found |= {
            f"{kind}:{theirs}_{part}": shapes[f"{ours}.weight"]
            for kind, part in (("arg", "gamma"), ("arg", "beta"), ("aux", "moving_mean"), ("aux", "moving_var"))
        }
    found |= {"arg:linear1000_weight": (10, 256), "arg:linear1000_bias": (10,)}
    return {name: generator.uniform(0.5, 1, shape).astype(np.float32) for name, shape in found.items()}


def write_params(path: Path, arrays: dict[str, np.ndarray], version: int = 0) -> Path:
    path.write_bytes(params_bytes(arrays, version))
    return path


@pytest.mark.parametrize("version", VERSIONS)
def test_every_entry_of_mxnets_file_finds_its_place(tmp_path: Path, version: int) -> None:
    arrays = mxnet_arrays()
    state = read_mxnet(write_params(tmp_path / "w.params", arrays, version), backbone_shapes(NARROW))
    assert shapes_of(state) == backbone_shapes(NARROW)
    pairs = {
        "conv1a.weight": "arg:conv1a_weight",
        "b2.conv_branch1.weight": "arg:res2a_branch1_weight",
        "b4_5.conv_branch2b1.weight": "arg:res4b5_branch2b1_weight",
        "b7.conv_branch2b2.weight": "arg:res7a_branch2b2_weight",
        "b3_2.bn_branch2a.weight": "arg:bn3b2_branch2a_gamma",
        "b6.bn_branch2b2.bias": "arg:bn6a_branch2b2_beta",
        "b5.bn_branch2b1.running_mean": "aux:bn5a_branch2b1_moving_mean",
        "bn7.running_var": "aux:bn7_moving_var",
        "bn7.weight": "arg:bn7_gamma",
    }
    for ours, theirs in pairs.items():
        np.testing.assert_array_equal(state[ours].numpy(), arrays[theirs])
    assert {mxnet_name(name) for name in state} == arrays.keys() - {"arg:linear1000_weight", "arg:linear1000_bias"}


def test_other_element_types_become_float32(tmp_path: Path) -> None:
    arrays = {name: array.astype(np.float16) for name, array in mxnet_arrays().items()}
    state = read_mxnet(write_params(tmp_path / "w.params", arrays), backbone_shapes(NARROW))
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    np.testing.assert_array_equal(state["bn7.bias"].numpy(), arrays["arg:bn7_beta"].astype(np.float32))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda arrays: arrays.pop("arg:bn7_gamma"), r"1 missing \(arg:bn7_gamma\)"),
        (lambda arrays: arrays.update({"arg:extra": np.ones(3, np.float32)}), r"1 unexpected \(arg:extra\)"),
        (lambda arrays: arrays.update({"arg:bn7_beta": np.ones(3, np.float32)}), "arg:bn7_beta is 3, not 256"),
        (lambda arrays: arrays["arg:bn7_beta"].fill(np.nan), "arg:bn7_beta holds numbers that are no weights"),
        (lambda arrays: arrays["aux:bn7_moving_var"].fill(-1), "aux:bn7_moving_var holds numbers that are no weights"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, change, said: str) -> None:
    arrays = mxnet_arrays()
    change(arrays)
    with pytest.raises(UserError, match=said):
        read_mxnet(write_params(tmp_path / "w.params", arrays), backbone_shapes(NARROW))


named_arrays = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=12),
    arrays_of.arrays(
        st.sampled_from([np.dtype(code) for code in ("<f4", "<f8", "<f2", "u1", "<i4", "i1", "<i8")]),
        arrays_of.array_shapes(max_dims=5, max_side=4, min_side=0),
    ),
    max_size=4,
)


@given(named_arrays, st.sampled_from(VERSIONS))
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, np.ndarray], version: int
) -> None:
    path = write_params(tmp_path_factory.mktemp("params") / "w.params", arrays, version)
    directory = read_directory(path)
    assert list(directory) == list(arrays)
    for name, array in arrays.items():
        read = read_array(path, directory[name])
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)


def test_arrays_without_dimensions_are_passed_over(tmp_path: Path) -> None:
    """MXNet writes them as a shape alone."""
    none = {0: struct.pack("<I", 0), 1: struct.pack("<II", 0xF993FAC8, 0), 2: struct.pack("<IiI", 0xF993FAC9, 0, 0)}
    for start in none.values():
        path = tmp_path / "w.params"
        path.write_bytes(
            struct.pack("<QQQ", 0x112, 0, 2)
            + start
            + array_bytes(np.arange(3, dtype="<f4"), 2)
            + struct.pack("<Q", 2)
            + struct.pack("<Q", 1)
            + b"a"
            + struct.pack("<Q", 1)
            + b"b"
        )
        directory = read_directory(path)
        assert directory["a"].shape == () and read_array(path, directory["b"]).tolist() == [0, 1, 2]


WHOLE = params_bytes({"arg:a": np.arange(6, dtype="<f4").reshape(2, 3), "aux:b": np.ones(2, "<f4")}, 2)


@given(
    st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), max_size=6),
    st.integers(0, len(WHOLE)),
    st.binary(max_size=9),
)
@example([(16 + offset, 255) for offset in range(6)], len(WHOLE), b"")
def test_damage_is_one_clear_line_and_takes_no_memory(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], length: int, more: bytes
) -> None:
    data = bytearray(WHOLE)
    for place, value in changes:
        data[place] = value
    path = tmp_path_factory.mktemp("params") / "w.params"
    path.write_bytes(bytes(data[:length]) + more)
    tracemalloc.start()
    try:
        for entry in read_directory(path).values():
            read_array(path, entry)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 1_000_000


def word(value: int) -> bytes:
    return struct.pack("<Q", value)


V2 = struct.pack("<I", 0xF993FAC9)
HOSTILE = {
    "empty": b"",
    "no params": b"PK\3\4" + bytes(60),
    "a thousand million million arrays": word(0x112) + word(0) + word(10**15) + bytes(64),
    "more arrays than bytes": word(0x112) + word(0) + word(1000) + bytes(64),
    "four thousand million dimensions": word(0x112) + word(0) + word(1) + struct.pack("<I", 0xFFFFFFF0) + bytes(64),
    "a side of 2^62": word(0x112)
    + word(0)
    + word(1)
    + V2
    + struct.pack("<iIqqiii", 0, 2, 2**62, 2**62, 1, 0, 0)
    + bytes(64),
    "a negative side": word(0x112)
    + word(0)
    + word(1)
    + V2
    + struct.pack("<iIqqiii", 0, 2, -1, -4, 1, 0, 0)
    + bytes(64),
    "a sparse array": word(0x112) + word(0) + word(1) + V2 + struct.pack("<i", 1) + bytes(64),
    "an unknown type": word(0x112) + word(0) + word(1) + V2 + struct.pack("<iIqiii", 0, 1, 2, 1, 0, 9) + bytes(64),
    "version 3": word(0x112) + word(0) + word(1) + struct.pack("<I", 0xF993FACA) + bytes(64),
    "a name of 2^60": word(0x112)
    + word(0)
    + word(1)
    + array_bytes(np.ones(1, "<f4"), 0)
    + word(1)
    + word(2**60)
    + b"ab",
    "a name that is no text": word(0x112)
    + word(0)
    + word(1)
    + array_bytes(np.ones(1, "<f4"), 0)
    + word(1)
    + word(1)
    + b"\xff",
    "no names": word(0x112) + word(0) + word(1) + array_bytes(np.ones(1, "<f4"), 0) + word(0),
    "a name twice": word(0x112)
    + word(0)
    + word(2)
    + 2 * array_bytes(np.ones(1, "<f4"), 0)
    + word(2)
    + 2 * (word(1) + b"a"),
    "something behind": WHOLE + b"x",
    "its last byte missing": WHOLE[:-1],
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "w.params"
    path.write_bytes(HOSTILE[kind])
    with pytest.raises(UserError, match="w.params"):
        read_directory(path)


def test_folders_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        read_directory(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        read_directory(tmp_path / "none.params")


# --- loading, converting ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".params", ".pth", ".safetensors"])
def test_a_backbone_loads_from_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    state = read_mxnet(write_params(tmp_path / "w.params", mxnet_arrays()), backbone_shapes(NARROW))
    if suffix == ".pth":
        torch.save(state, path)
    elif suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    network = DeepLabV1(4, NARROW)
    head = network.fc8_seg_conv1.weight.clone()
    assert load_weights(network, path) is False
    loaded = network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    assert torch.equal(network.fc8_seg_conv1.weight, head)


def test_a_whole_network_loads_with_its_head(tmp_path: Path) -> None:
    first, second = DeepLabV1(4, NARROW), DeepLabV1(4, NARROW)
    torch.save(
        first.state_dict(), tmp_path / "model_final.pth"
    )  # with PyTorch's counters, as the published code saves it
    assert load_weights(second, tmp_path / "model_final.pth") is True
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_other_classes_other_widths_and_gaps_are_named(tmp_path: Path) -> None:
    state = DeepLabV1(4, NARROW).state_dict()
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match="w.pth: .*of 7 classes.*fc8_seg_conv2.weight"):
        load_weights(DeepLabV1(7, NARROW), tmp_path / "w.pth")
    with pytest.raises(UserError, match="of 0.125 times its width"):
        load_weights(DeepLabV1(4, 1 / 8), tmp_path / "w.pth")
    del state["b5.conv_branch1.weight"]
    torch.save({**state, "fc8.weight": torch.ones(20, 256, 1, 1)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"1 missing \(b5.conv_branch1.weight\); 1 unexpected \(fc8.weight\)"):
        load_weights(DeepLabV1(4, NARROW), tmp_path / "w.pth")


def convert(monkeypatch: pytest.MonkeyPatch, *arguments: Path) -> int:
    monkeypatch.setattr(sys, "argv", [str(CONVERT), *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(CONVERT), run_name="__main__")
    return ended.value.code


@pytest.mark.slow
def test_the_converter_writes_what_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """At the published width: half a gigabyte."""
    params, converted = write_params(tmp_path / "w.params", mxnet_arrays(1.0)), tmp_path / "resnet38.safetensors"
    assert convert(monkeypatch, params, converted) == 0
    assert "191 entries, 105,118,656 numbers" in capsys.readouterr().out
    expected = read_mxnet(params)
    written = safetensors.torch.load_file(converted)
    assert written.keys() == expected.keys() and all(torch.equal(written[name], expected[name]) for name in expected)
    assert load_weights(DeepLabV1(21), converted) is False
    assert convert(monkeypatch, params, converted) == 2
    assert "exists already" in capsys.readouterr().err


def test_the_converter_says_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    narrow = write_params(tmp_path / "narrow.params", mxnet_arrays())
    assert convert(monkeypatch, narrow, tmp_path / "out.safetensors") == 2
    assert "narrow.params: is not ResNet38's ImageNet file" in capsys.readouterr().err
    assert not (tmp_path / "out.safetensors").exists()


# --- training and testing --------------------------------------------------------------------------------------------


class Painted:
    """Images and their class maps in memory, as an `AnnotatedImages`."""

    classes = ClassTable()

    def __init__(self, *pairs: tuple[np.ndarray, np.ndarray]) -> None:
        self.pairs, self.names = pairs, [f"{number}.png" for number in range(len(pairs))]

    def pixels(self, index: int) -> np.ndarray:
        return self.pairs[index][0]

    def annotated(self, index: int) -> ClassMap:
        return ClassMap(self.pairs[index][1], "index", self.classes)


def painted(*sizes: tuple[int, int], seed: int = 0, classes: int = 3) -> Painted:
    """Random pixels; labels in blocks, among them 255."""
    generator = np.random.default_rng(seed)
    return Painted(
        *(
            (
                generator.integers(0, 256, (height, width, 3), np.uint8),
                np.kron(generator.choice([*range(classes), 255], (height // 4 + 1, width // 4 + 1)), np.ones((4, 4)))[
                    :height, :width
                ].astype(np.uint8),
            )
            for height, width in sizes
        )
    )


def learner_of(train: Painted, test: Painted, size: tuple[int, int] = (33, 25), **options) -> DeepLabV1Learner:
    return make_deeplabv1(
        "deeplabv1_resnet38", train, test, LearnerOptions(size, colour_jitter=False, extra={"width": NARROW}, **options)
    )


def test_a_view_without_scale_is_the_image_and_padding_right_and_below() -> None:
    image = np.arange(5 * 6 * 3, dtype=np.float32).reshape(5, 6, 3)
    view = CropView(1.0, False, (0.9, 0.9)).of(image, (8, 7), cv2.INTER_LINEAR, [1, 2, 3])
    np.testing.assert_array_equal(view[:5, :6], image)
    assert (view[5:] == [1, 2, 3]).all() and (view[:, 6:] == [1, 2, 3]).all()
    labels = np.arange(30, dtype=np.uint8).reshape(5, 6)
    flipped = CropView(1.0, True, (0.5, 0.999)).of(labels, (4, 3), cv2.INTER_NEAREST_EXACT, 255)
    np.testing.assert_array_equal(
        flipped, labels[:, ::-1][1:4, 1:5]
    )  # int(0.5 · 2) rows, int(0.999 · 2) columns left out


@given(st.integers(0, 2**31), st.integers(9, 40), st.integers(9, 40))
def test_labels_stay_on_their_pixels(seed: int, height: int, width: int) -> None:
    """Where the image is a ramp of its columns or rows, labels are where that ramp says; padding is where padding
    is.
    """
    view = draw_views(1, torch.Generator().manual_seed(seed))[0]
    y, x = np.mgrid[:height, :width]
    labels = (x >= width / 2).astype(np.uint8)
    ramp = np.stack([x, y, np.ones_like(x)], 2).astype(np.float32)
    pixels = view.of(ramp, (24, 20), cv2.INTER_LINEAR, [0, 0, 0])
    classes = view.of(labels, (24, 20), cv2.INTER_NEAREST_EXACT, 255)
    np.testing.assert_array_equal(classes == 255, pixels[..., 2] == 0)
    inside = classes != 255
    middle = (width - 1) / 2
    clear = inside & (np.abs(pixels[..., 0] - middle) > 0.75)  # not within a pixel of the border between the two
    np.testing.assert_array_equal(classes[clear], (pixels[clear][:, 0] > middle).astype(np.uint8))


def test_a_batch_has_one_scale_and_processes_share_its_views() -> None:
    views = draw_views(5, torch.Generator().manual_seed(3))
    assert len({view.scale for view in views}) == 1 and 0.7 <= views[0].scale <= 1.3
    assert len({view.place for view in views}) == 5
    scales = [draw_views(2, torch.Generator().manual_seed(seed))[0].scale for seed in range(200)]
    assert min(scales) < 0.72 and max(scales) > 1.28


def test_two_processes_see_the_views_of_one() -> None:
    data = painted((30, 40), (50, 20), (26, 26), (40, 60))
    learner, seen = learner_of(data, painted((20, 20), seed=1)), []

    def model(images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return torch.zeros(len(images), 3, 4, 5, requires_grad=True)

    states = []
    for rank, size in ((0, 1), (0, 2), (1, 2)):
        draw = torch.Generator().manual_seed(5)
        learner.part_loss(model, [0, 1, 2, 3], draw, torch.device("cpu"), rank, size)
        states.append(draw.get_state())
    assert torch.equal(seen[0][::2], seen[1]) and torch.equal(seen[0][1::2], seen[2])
    assert torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])


def test_the_loss_is_cross_entropy_of_resized_logits_over_the_labelled_pixels() -> None:
    data = painted((30, 40), (50, 20))
    learner = learner_of(data, painted((20, 20), seed=1))
    logits = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    loss = learner.loss(lambda images: logits, [0, 1], torch.Generator().manual_seed(5), torch.device("cpu"))
    views = draw_views(2, torch.Generator().manual_seed(5))
    target = np.stack(
        [
            view.of(labels, (33, 25), cv2.INTER_NEAREST_EXACT, 255)
            for view, (_, labels) in zip(views, data.pairs, strict=True)
        ]
    )
    chances = F.interpolate(logits, (25, 33), mode="bilinear", align_corners=False).softmax(1).numpy()
    each = [-np.log(chances[b, target[b, i, j], i, j]) for b, i, j in np.argwhere(target != 255)]
    assert (target == 255).any() and float(loss) == pytest.approx(np.mean(each), rel=1e-5)


def test_the_network_is_fed_imagenets_statistics() -> None:
    grey = np.full((40, 50, 3), 128, np.uint8), np.zeros((40, 50), np.uint8)
    learner, seen = learner_of(Painted(grey, grey), painted((20, 20), classes=1)), []

    def model(images: torch.Tensor) -> torch.Tensor:
        seen.append(images)
        return torch.zeros(len(images), 1, 4, 5)

    learner.loss(model, [0], torch.Generator().manual_seed(0), torch.device("cpu"))
    assert seen[0].shape == (1, 3, 25, 33)
    expected = [(128 / 255 - mean) / deviation for mean, deviation in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    torch.testing.assert_close(seen[0][0, :, 12, 16], torch.tensor(expected))


class Answers(nn.Module):
    """Logits whose argmax is a fixed map, at an eighth of the size."""

    def __init__(self, of_size: dict[tuple[int, int], np.ndarray], classes: int) -> None:
        super().__init__()
        self.of_size, self.classes = of_size, classes

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        small = torch.from_numpy(self.of_size[tuple(images.shape[2:])])
        return F.one_hot(small.long(), self.classes).permute(2, 0, 1)[None].float() * 9


def test_metrics_are_those_of_all_test_pixels_at_full_size() -> None:
    test = painted((30, 40), (50, 20), seed=4)
    generator = np.random.default_rng(5)
    small = {
        labels.shape: generator.integers(0, 3, tuple(-(-side // 8) for side in labels.shape))
        for _, labels in test.pairs
    }
    learner = learner_of(painted((30, 40)), test)
    found = learner.evaluate(Answers(small, 3), torch.device("cpu"))
    hits, unions, right, all_of_them = np.zeros(3), np.zeros(3), 0, 0
    for _, labels in test.pairs:
        logits = F.one_hot(torch.from_numpy(small[labels.shape]), 3).permute(2, 0, 1)[None].float()
        answer = F.interpolate(logits, labels.shape, mode="bilinear", align_corners=False)[0].argmax(0).numpy()
        counted = labels != 255
        for label in range(3):
            hits[label] += ((answer == label) & (labels == label)).sum()
            unions[label] += (((answer == label) & counted) | (labels == label)).sum()
        right, all_of_them = right + (answer == labels)[counted].sum(), all_of_them + counted.sum()
    assert found["miou"] == pytest.approx(np.mean(hits / unions))
    assert list(found["class_iou"].values()) == pytest.approx(list(hits / unions))
    assert found["pixel_accuracy"] == pytest.approx(right / all_of_them)


def test_the_trivial_answer_is_the_majority_of_training() -> None:
    train = Painted((np.zeros((4, 4, 3), np.uint8), np.array([[1, 1, 1, 2]] * 3 + [[0, 255, 255, 255]], np.uint8)))
    test = Painted((np.zeros((2, 4, 3), np.uint8), np.array([[1, 1, 2, 255], [2, 2, 255, 255]], np.uint8)))
    learner = learner_of(train, test)
    assert learner.trivial["class_iou"] == {"0": None, "1": 2 / 5, "2": 0.0}  # 5 labelled pixels, 2 of them class 1
    assert learner.trivial["miou"] == pytest.approx(0.2) and learner.trivial["pixel_accuracy"] == pytest.approx(0.4)


def test_the_head_learns_ten_times_as_fast_and_the_frozen_part_not_at_all(tmp_path: Path) -> None:
    train, test = painted((20, 20)), painted((20, 20), seed=1)
    whole = DeepLabV1(3, NARROW).state_dict()
    torch.save(whole, tmp_path / "w.pth")
    torch.save(
        {name: tensor for name, tensor in whole.items() if not name.startswith("fc8")}, tmp_path / "backbone.pth"
    )
    for weights, frozen, said in (
        (None, 0, "random weights"),
        (tmp_path / "w.pth", 1 + 2 * 37, ""),
        (tmp_path / "backbone.pth", 1 + 2 * 37, "backbone.pth holds no head"),
    ):
        learner = learner_of(train, test, weights=weights)
        model = learner.build()
        assert len(learner.notes) == bool(said) and said in " ".join(learner.notes)
        backbone, head = learner.parameter_groups(model)
        assert head["rate"] == 10 and "rate" not in backbone
        both = [*model.fc8_seg_conv1.parameters(), *model.fc8_seg_conv2.parameters()]
        assert {id(parameter) for parameter in head["params"]} == {id(parameter) for parameter in both}
        assert len(backbone["params"]) + len(head["params"]) + frozen == len(list(model.parameters()))


def test_a_frozen_network_stays_frozen_where_processes_share_their_statistics() -> None:
    network = nn.SyncBatchNorm.convert_sync_batchnorm(DeepLabV1(3, NARROW)).train()
    norms = [module for module in network.modules() if isinstance(module, nn.SyncBatchNorm)]
    assert len(norms) == 37 and not any(module.training for module in norms)


def test_test_labels_that_training_lacks_are_refused() -> None:
    with pytest.raises(UserError, match="test labels: class 4 is out of range; the training images have 3 classes"):
        learner_of(painted((20, 20)), painted((40, 40), classes=5))


def test_unknown_networks_and_options_are_refused() -> None:
    data = painted((20, 20))
    with pytest.raises(UserError, match="deeplabv1_resnet50.*deeplabv1_resnet38"):
        make_deeplabv1("deeplabv1_resnet50", data, data, LearnerOptions((33, 25)))
    with pytest.raises(UserError, match="--set depth.*width"):
        make_deeplabv1("deeplabv1_resnet38", data, data, LearnerOptions((33, 25), extra={"depth": 3}))


def test_a_run_that_is_killed_and_resumed_ends_with_the_same_weights(tmp_path: Path) -> None:
    learner = learner_of(painted((30, 40), (50, 20), (26, 26)), painted((20, 20), seed=1))
    schedule = Schedule(steps=5, batch=2, eval_every=2, optimizer="sgd", decay="poly", warm_up=0, learning_rate=1e-2)
    unbroken = train(learner, schedule, 7)
    checkpoint = Checkpoint(tmp_path / "run.pt", {}, every=0)
    with pytest.raises(Killed):
        train(learner, schedule, 7, checkpoint=checkpoint, progress=KillingAt(4))
    told = Told()
    broken = train(learner, schedule, 7, checkpoint=checkpoint, progress=told, what="run")
    assert told.sentences == ["run: goes on from step 3"]
    assert broken.metrics == unbroken.metrics and broken.curve == unbroken.curve
    states = (run.network.state_dict().values() for run in (broken, unbroken))
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_tests_as_the_processor_does_and_trains() -> None:
    learner = learner_of(painted((30, 40), (50, 20)), painted((64, 80), (50, 90), seed=1))
    torch.manual_seed(0)
    model = learner.build().eval()
    with torch.no_grad():
        expected = learner.evaluate(model, torch.device("cpu"))
        found = learner.evaluate(copy.deepcopy(model).cuda(), torch.device("cuda"))
    assert found["miou"] == pytest.approx(expected["miou"], abs=0.01)  # a few pixels near a tie may fall otherwise
    schedule = Schedule(steps=3, batch=2, eval_every=3, optimizer="sgd", decay="poly", warm_up=0, learning_rate=1e-3)
    trained = train(learner, schedule, 0, World(device=torch.device("cuda")))
    assert np.isfinite(trained.train_loss) and next(trained.network.parameters()).is_cuda


@pytest.mark.slow
def test_it_learns_what_two_colours_say() -> None:
    """Left black and class 0, right white and class 1: 60 steps of a narrow network from random weights. Trivial:
    0.25.
    """
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:, 48:] = 255
    data = Painted(*[(pixels, (pixels[..., 0] > 0).astype(np.uint8))] * 4)
    schedule = Schedule(
        steps=60,
        batch=4,
        eval_every=60,
        optimizer="sgd",
        momentum=0.9,
        weight_decay=1e-5,
        decay="poly",
        warm_up=0,
        learning_rate=2e-2,
    )
    trained = train(learner_of(data, data, size=(49, 49)), schedule, 0)
    assert trained.metrics["miou"] > 0.5
