"""Weight files in every layout, made here with random weights, and the errors of wrong ones."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from segment_anything_training import key_remaps
from segment_anything_training.build import SAM_CONFIGS, build_generator
from segment_anything_training.generator import NoiseGenerator, is_noise_part
from segment_anything_training.prompt_batch import Prompts
from segment_anything_training.sam import SamConfig
from unseg.errors import UserError
from unseg.storage import state_files, weights
from unseg.storage.weights import initialise_from_sam, load_generator, save_generator

REPOSITORY = Path(__file__).parents[2]
CONFIG = SamConfig(64, embed_dim=32, depth=3, num_heads=2, global_blocks=(1,), window=3)


@pytest.fixture(scope="module")
def trained() -> NoiseGenerator:
    """A generator every entry of which differs from a fresh one's."""
    torch.manual_seed(1)
    network = NoiseGenerator(CONFIG)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.add_(torch.randn_like(tensor) * 0.1)
    return network.eval()


@pytest.fixture
def sam_state(trained) -> key_remaps.State:
    """As an official SAM file holds it."""
    return {name: tensor.clone() for name, tensor in trained.state_dict().items() if not is_noise_part(name)}


def same_noise(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    torch.manual_seed(2)
    images = torch.rand(1, 3, first.image_size, first.image_size)
    with torch.no_grad():
        return torch.equal(first(images, Prompts()), second(images, Prompts()))


def assert_sam_parts_loaded(network: NoiseGenerator, noise_before: dict[str, torch.Tensor], sam_state) -> None:
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, noise_before[name] if is_noise_part(name) else sam_state[name]), name


# Each layout


def test_official_sam_file(tmp_path, sam_state):
    torch.save(sam_state, tmp_path / "sam_vit_b_01ec64.pth")
    network = NoiseGenerator(CONFIG)
    noise_before = {name: tensor.clone() for name, tensor in network.state_dict().items() if is_noise_part(name)}
    initialise_from_sam(network, tmp_path / "sam_vit_b_01ec64.pth")
    assert_sam_parts_loaded(network, noise_before, sam_state)


def test_three_way_split(tmp_path, sam_state):
    for part, name in (
        ("image_encoder", "backbone"),
        ("prompt_encoder", "prompt_decoder"),
        ("mask_decoder", "maskdecoder"),
    ):
        prefix = part + "."
        state = {key[len(prefix) :]: tensor for key, tensor in sam_state.items() if key.startswith(prefix)}
        torch.save(state, tmp_path / f"sam_vit_b_{name}.pth")
    network = NoiseGenerator(CONFIG)
    noise_before = {name: tensor.clone() for name, tensor in network.state_dict().items() if is_noise_part(name)}
    initialise_from_sam(network, tmp_path)
    assert_sam_parts_loaded(network, noise_before, sam_state)


def test_published_generator_file(tmp_path, trained):
    torch.save(trained.state_dict(), tmp_path / "Generator_unseg_final.pth")
    loaded = load_generator(tmp_path / "Generator_unseg_final.pth")
    assert (loaded.name, loaded.source, loaded.metadata) == ("custom", "Generator_unseg_final.pth", {})
    assert loaded.network.config == CONFIG
    assert same_noise(loaded.network, trained)


def test_old_style_pth(tmp_path, trained):
    """Files from before PyTorch 1.6 are plain pickles."""
    torch.save(trained.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert same_noise(load_generator(tmp_path / "old.pth").network, trained)


def test_own_safetensors_round_trip(tmp_path, trained):
    path = tmp_path / "generator.safetensors"
    sha256 = save_generator(trained, "custom", path, {"seed": "7", "data": "photographs"})
    loaded = load_generator(path)
    assert loaded.sha256 == sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.metadata["seed"] == "7" and loaded.metadata["network"] == "custom"
    assert not loaded.network.training
    assert not any(parameter.requires_grad for parameter in loaded.network.parameters())
    assert same_noise(loaded.network, trained)


def test_own_safetensors_are_read_by_the_library(tmp_path, trained):
    save_generator(trained, "custom", tmp_path / "generator.safetensors", {"note": "köln"})
    state = safetensors.torch.load_file(tmp_path / "generator.safetensors")
    assert state.keys() == trained.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in trained.state_dict().items())
    with safetensors.safe_open(tmp_path / "generator.safetensors", "pt") as file:
        assert file.metadata()["note"] == "köln"


def test_equal_weights_and_facts_give_equal_bytes(tmp_path, trained):
    """The library alone writes metadata in an order drawn anew each time: 4 files of 8 facts hardly ever agree."""
    facts = {f"fact {i}": str(i) for i in range(8)}
    assert len({save_generator(trained, "custom", tmp_path / f"{i}.safetensors", facts) for i in range(4)}) == 1


def test_custom_size_whose_windows_cover_the_grid(tmp_path):
    """Tables of relative positions do not tell its global blocks: the file has to."""
    network = NoiseGenerator(replace(CONFIG, window=4, global_blocks=(2,)))
    save_generator(network, "custom", tmp_path / "generator.safetensors")
    loaded = load_generator(tmp_path / "generator.safetensors").network
    assert loaded.config == network.config
    assert same_noise(loaded, network)


def test_compact_round_trip(tmp_path):
    network = build_generator("compact")
    save_generator(network, "compact", tmp_path / "compact.safetensors")
    loaded = load_generator(tmp_path / "compact.safetensors")
    assert loaded.name == "compact"
    assert same_noise(loaded.network, network)


def test_compact_means_the_shipped_file(tmp_path, monkeypatch):
    monkeypatch.setattr(weights.importlib.resources, "files", lambda package: tmp_path)
    with pytest.raises(UserError, match="shipped generator is missing"):
        load_generator("compact")
    sha256 = save_generator(build_generator("compact"), "compact", tmp_path / "weights" / "compact.safetensors")
    loaded = load_generator("compact")
    assert (loaded.name, loaded.source, loaded.sha256) == ("compact", "compact.safetensors", sha256)


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_size_is_known_from_shapes(name):
    assert key_remaps.sam_config_of(weights.expected_shapes(name)) == SAM_CONFIGS[name]


@pytest.mark.slow
def test_real_size(tmp_path):
    """ViT-B through the official and the published layout."""
    network = build_generator("vit_b")
    sam = {name: tensor for name, tensor in network.state_dict().items() if not is_noise_part(name)}
    torch.save(sam, tmp_path / "sam_vit_b_01ec64.pth")
    other = build_generator("vit_b")
    initialise_from_sam(other, tmp_path / "sam_vit_b_01ec64.pth")
    assert torch.equal(other.image_encoder.pos_embed, network.image_encoder.pos_embed)
    torch.save(other.state_dict(), tmp_path / "Generator_unseg_final.pth")
    loaded = load_generator(tmp_path / "Generator_unseg_final.pth")
    assert loaded.name == "vit_b"
    expected = other.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.network.state_dict().items())


# Splitting and joining


def run_split_sam(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["split_sam.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as finished:
        runpy.run_path(str(REPOSITORY / "utils" / "split_sam.py"), run_name="__main__")
    return finished.value.code


def test_split_and_join_by_hand(tmp_path, sam_state, monkeypatch):
    official, joined = tmp_path / "sam_vit_b_01ec64.pth", tmp_path / "joined.pth"
    torch.save(sam_state, official)
    assert run_split_sam(monkeypatch, "split", official, tmp_path / "parts") == 0
    assert run_split_sam(monkeypatch, "join", tmp_path / "parts", joined) == 0
    backbone = torch.load(tmp_path / "parts" / "sam_vit_b_backbone.pth", weights_only=True)
    assert "pos_embed" in backbone and not any(name.startswith("image_encoder") for name in backbone)
    state = torch.load(joined, weights_only=True)
    assert list(state) == list(sam_state)
    assert safetensors.torch.save(state) == safetensors.torch.save(sam_state), (
        "names, types, shapes and bytes are the same"
    )


def test_splitting_and_joining_write_over_nothing(tmp_path, sam_state, monkeypatch, capsys):
    official, parts = tmp_path / "sam_vit_b_01ec64.pth", tmp_path / "parts"
    torch.save(sam_state, official)
    parts.mkdir()
    mine = parts / "sam_vit_b_maskdecoder.pth"
    mine.write_bytes(b"mine")
    assert run_split_sam(monkeypatch, "split", official, parts) == 2
    assert f"{mine}: exists already" in capsys.readouterr().err
    assert mine.read_bytes() == b"mine" and list(parts.iterdir()) == [mine], (
        "nothing is written if not everything can be"
    )
    mine.unlink()
    assert run_split_sam(monkeypatch, "split", official, parts) == 0
    before = official.read_bytes()
    assert run_split_sam(monkeypatch, "join", parts, official) == 2
    assert f"{official}: exists already" in capsys.readouterr().err and official.read_bytes() == before


def test_split_refuses_what_is_no_sam(tmp_path, trained, monkeypatch, capsys):
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    assert run_split_sam(monkeypatch, "split", tmp_path / "resnet.pth", tmp_path / "parts") == 2
    assert "resnet.pth: is not an official SAM file" in capsys.readouterr().err
    assert not (tmp_path / "parts").exists()


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda state: state.pop("mask_decoder.iou_token.weight"), "1 missing (mask_decoder.iou_token.weight)"),
        (
            lambda state: state.update({"mask_decoder.iou_token.weight": torch.zeros(1, 3)}),
            "iou_token.weight is 1×3, not 1×256",
        ),
        (
            lambda state: state.update({"mask_decoder.noise_token.weight": torch.zeros(3, 256)}),
            "1 unexpected (mask_decoder.noise",
        ),
    ],
)
def test_only_a_whole_sam_is_split_or_joined(tmp_path, sam_state, monkeypatch, capsys, spoil, expected):
    state, parts = dict(sam_state), tmp_path / "parts"
    spoil(state)
    torch.save(state, tmp_path / "sam.pth")
    assert run_split_sam(monkeypatch, "split", tmp_path / "sam.pth", parts) == 2
    told = capsys.readouterr().err
    assert (
        f"sam.pth: is not a whole SAM: {expected}" in told.replace("1 mis-shaped (mask_decoder.", "")
        and told.count("\n") == 1
    )
    assert not parts.exists()
    for part, own in key_remaps.split_sam(state).items():
        if part:
            state_files.save_pth(
                {name: tensor.clone() for name, tensor in own.items()},
                parts / f"sam_vit_b_{key_remaps.SAM_PARTS[part]}.pth",
            )
    assert run_split_sam(monkeypatch, "join", parts, tmp_path / "joined.pth") == 2
    told = capsys.readouterr().err
    assert f"parts: is not a whole SAM: {expected}" in told.replace("1 mis-shaped (mask_decoder.", "")
    assert not (tmp_path / "joined.pth").exists()


# Wrong files


def error_of(action, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        action(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_misfit_names_missing_unexpected_and_misshaped(tmp_path, sam_state):
    del sam_state["image_encoder.neck.0.weight"]
    sam_state["mask_decoder.extra"] = torch.zeros(1)
    for name in ("iou_token", "mask_tokens", "transformer.norm_final_attn", "output_upscaling.1"):
        sam_state[f"mask_decoder.{name}.weight"] = torch.zeros(5, 7)
    torch.save(sam_state, tmp_path / "wrong.pth")
    message = error_of(initialise_from_sam, NoiseGenerator(CONFIG), tmp_path / "wrong.pth")
    assert message.startswith(f"{tmp_path / 'wrong.pth'}: ")
    assert "1 missing (image_encoder.neck.0.weight)" in message
    assert "1 unexpected (mask_decoder.extra)" in message
    assert "4 mis-shaped (" in message and "mask_decoder.iou_token.weight is 5×7, not 1×256" in message
    assert message.count(" is 5×7, not ") == state_files.KEYS_SHOWN and ", …)" in message


def test_wrong_file_changes_nothing(tmp_path, sam_state):
    del sam_state["image_encoder.neck.0.weight"]
    torch.save(sam_state, tmp_path / "wrong.pth")
    network = NoiseGenerator(CONFIG)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    error_of(initialise_from_sam, network, tmp_path / "wrong.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_noise_parts_in_a_sam_file_are_unexpected(tmp_path, trained):
    torch.save(trained.state_dict(), tmp_path / "generator.pth")
    message = error_of(initialise_from_sam, NoiseGenerator(CONFIG), tmp_path / "generator.pth")
    assert "unexpected (mask_decoder.noise_token.weight, " in message


def test_sam_is_no_generator(tmp_path, sam_state):
    torch.save(sam_state, tmp_path / "sam_vit_b_01ec64.pth")
    message = error_of(load_generator, tmp_path / "sam_vit_b_01ec64.pth")
    assert "is SAM itself" in message and "missing (mask_decoder.noise_token.weight" in message


def test_another_network_is_compared_with_vit_b(tmp_path):
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.bias": torch.zeros(1000)}, tmp_path / "resnet.pth")
    message = error_of(load_generator, tmp_path / "resnet.pth")
    assert "not a vit_b generator: 359 missing (image_encoder.pos_embed, " in message
    assert "2 unexpected (conv1.weight, fc.bias)" in message


def test_damaged_generator_is_compared_with_the_size_it_resembles(tmp_path):
    shapes = weights.expected_shapes("vit_l") | {"image_encoder.pos_embed": (1, 32, 32, 1024)}
    with pytest.raises(UserError) as caught:
        weights.generator_of(state_files.StateFile(Path("damaged.pth"), shapes, {}, [], dict))
    assert str(caught.value).startswith(
        "damaged.pth: is not a vit_l generator: "
        "1 mis-shaped (image_encoder.pos_embed is 1×32×32×1024, not 1×64×64×1024); "
    )


def test_named_network_must_fit(tmp_path, trained):
    safetensors.torch.save_file(
        trained.state_dict(), tmp_path / "a.safetensors", {"network": "compact", "format_version": "1"}
    )
    assert "is not a compact generator: " in error_of(load_generator, tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"network": "vit_x"}, "unknown network 'vit_x'; available: vit_b, vit_l, vit_h, compact"),
        ({"network": "custom"}, "unknown network 'custom'"),
        ({"network": "custom", "sam_config": "[]"}, "its sam_config is that of no network"),
        ({"network": "compact", "format_version": "2"}, "has weight format 2, not 1"),
    ],
)
def test_foreign_metadata(tmp_path, metadata, expected):
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", metadata)
    assert expected in error_of(load_generator, tmp_path / "a.safetensors")


class RunsCode:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_not_run(tmp_path, zipped):
    marker = tmp_path / "ran"
    torch.save(
        {"a": torch.zeros(1), "b": RunsCode(marker)}, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped
    )
    for action in (
        lambda: load_generator(tmp_path / "evil.pth"),
        lambda: initialise_from_sam(NoiseGenerator(CONFIG), tmp_path / "evil.pth"),
    ):
        assert "could run code" in error_of(action)
    assert not marker.exists()
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert marker.exists(), "the file must be harmful for this test to mean anything"


def test_plain_pickle_is_refused(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(RunsCode(tmp_path / "ran")))
    assert "could run code" in error_of(load_generator, tmp_path / "a.pkl")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_files(tmp_path, trained, suffix):
    """Cut anywhere, emptied, or text: one line that names the file."""
    whole = tmp_path / f"whole{suffix}"
    if suffix == ".pth":
        torch.save(trained.state_dict(), whole)
    else:
        save_generator(trained, "custom", whole)
    data = whole.read_bytes()
    damaged = tmp_path / f"damaged{suffix}"
    for content in (b"", data[:1], data[:9], data[:100], data[: len(data) // 2], data[:-1], b"no weights here\n" * 9):
        damaged.write_bytes(content)
        assert error_of(load_generator, damaged).startswith(f"{damaged}: ")


def test_values_must_be_finite(tmp_path, trained):
    state = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    state["mask_decoder.noise_token.weight"][1, 2] = float("nan")
    torch.save(state, tmp_path / "a.pth")
    assert "1 entries hold non-finite values (mask_decoder.noise_token.weight)" in error_of(
        load_generator, tmp_path / "a.pth"
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([torch.zeros(1)], "expected a dictionary of tensors, found list"),
        ({}, "expected a dictionary of tensors, found dict"),
        ({"model": {"a": torch.zeros(1)}, "epoch": 3}, "2 entries are none (model, epoch)"),
        ({3: torch.zeros(1)}, "1 entries are none (3)"),
    ],
)
def test_other_contents(tmp_path, content, expected):
    torch.save(content, tmp_path / "a.pth")
    assert expected in error_of(load_generator, tmp_path / "a.pth")


def test_missing_files_say_where_to_get_them(tmp_path):
    folder = tmp_path / "pretrained_checkpoint"
    message = error_of(initialise_from_sam, NoiseGenerator(CONFIG), folder / "sam_vit_b_01ec64.pth")
    assert message == (
        f"{folder / 'sam_vit_b_01ec64.pth'}: no such file; get it from "
        "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth (sha256 "
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912) and put it into pretrained_checkpoint/"
    )
    table = (REPOSITORY / "pretrained_checkpoint" / "README.md").read_text(encoding="utf-8")
    for name, sha256 in state_files._SAM_FILES.items():
        assert re.search(rf"`{name}` .*`{sha256}`", table)
    assert "weight_dir/" in error_of(load_generator, tmp_path / "Generator_unseg_final.pth")
    assert error_of(load_generator, tmp_path / "mine.pth").endswith("no such file; check the path")
    folder.mkdir()
    assert "holds none of sam_vit_b_backbone.pth, " in error_of(initialise_from_sam, NoiseGenerator(CONFIG), folder)
    torch.save({}, folder / "sam_vit_b_backbone.pth")
    assert "sam_vit_b_prompt_decoder.pth: no such file; make it" in error_of(
        initialise_from_sam, NoiseGenerator(CONFIG), folder
    )
    assert "is a folder; give a weight file" in error_of(load_generator, folder)


def test_sam_starts_only_sam_derived_generators(tmp_path):
    assert "vit_b, vit_l, vit_h" in error_of(initialise_from_sam, build_generator("compact"), tmp_path / "sam.pth")


# Saving


def test_failed_save_keeps_the_old_file_and_leaves_no_other(tmp_path, trained, monkeypatch):
    path = tmp_path / "generator.safetensors"
    path.write_bytes(b"before")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert re.match(
        rf"{re.escape(str(path))}: cannot be written \(No space left", error_of(save_generator, trained, "custom", path)
    )
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["generator.safetensors"]


def test_folder_that_is_a_file(tmp_path, trained):
    (tmp_path / "file").write_text("")
    assert "cannot be written" in error_of(save_generator, trained, "custom", tmp_path / "file" / "a.safetensors")


def test_saved_network_must_be_what_it_is_called(tmp_path, trained):
    for name, expected in (("vit_b", "not a vit_b generator"), ("vit_x", "unknown network 'vit_x'")):
        with pytest.raises(ValueError, match=expected):
            save_generator(trained, name, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="network is written by save_generator itself"):
        save_generator(trained, "custom", tmp_path / "a.safetensors", {"network": "vit_b"})
    assert not list(tmp_path.iterdir())
