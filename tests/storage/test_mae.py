"""MAE weights, in the official layouts and in SAM's names, start a surrogate.

Exactly the entries that they do not hold start fresh.
"""

from __future__ import annotations

import os
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm.models.vision_transformer as vit
import torch

from segment_anything_training.build import SAM_CONFIGS, SURROGATE_IMAGE_SIZE, build_surrogate
from segment_anything_training.image_encoder import ImageEncoder
from segment_anything_training.key_remaps import State, mae_to_sam, shapes_of
from segment_anything_training.sam import SamConfig
from segment_anything_training.surrogate import Surrogate
from unseg.errors import UserError
from unseg.storage.weights import initialise_from_mae, read_mae

REPOSITORY = Path(__file__).parents[2]
GRID, DIM = 4, 32
# Windows of the whole grid: every block attends to everything, as MAE's do.
CONFIG = SamConfig(16 * GRID, embed_dim=DIM, depth=2, num_heads=2, global_blocks=(1,), window=GRID)


def make_mae(side: int = GRID, dim: int = DIM, depth: int = 2, heads: int = 2, decoder: bool = False) -> State:
    """A MAE's state as its authors save it: timm's ViT, the class token first in `pos_embed`."""
    torch.manual_seed(0)
    network = vit.VisionTransformer(img_size=16 * side, embed_dim=dim, depth=depth, num_heads=heads, num_classes=0)
    state = {name: torch.randn_like(tensor) * 0.1 for name, tensor in network.state_dict().items()}
    if decoder:
        state |= {"mask_token": torch.zeros(1, 1, 8), "decoder_pos_embed": torch.zeros(1, side**2 + 1, 8)}
        state |= {
            f"decoder_{name}": torch.zeros(2)
            for name in (
                "embed.weight",
                "embed.bias",
                "blocks.0.norm1.weight",
                "blocks.7.mlp.fc2.bias",
                "norm.weight",
                "pred.bias",
            )
        }
    return state


def save(state: State, path: Path) -> Path:
    torch.save({"model": state}, path)
    return path


def error_of(action, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        action(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


REL_POS = {f"blocks.{block}.attn.rel_pos_{axis}" for block in range(12) for axis in "hw"}
NECK = {"neck.0.weight", "neck.1.weight", "neck.1.bias", "neck.2.weight", "neck.3.weight", "neck.3.bias"}


def test_vit_b_names_and_shapes():
    """Against the list, entry by entry: timm's ViT-B/16 at 224 has MAE's names; SAM's encoder is the package's."""
    with torch.device("meta"):
        official = {name: torch.empty(shape) for name, shape in shapes_of(make_mae(14, 768, 12, 12)).items()}
        encoder = ImageEncoder(replace(SAM_CONFIGS["vit_b"], image_size=SURROGATE_IMAGE_SIZE))
        converted = mae_to_sam(official, 32)
    assert official["pos_embed"].shape == (1, 197, 768) and len(official) == 150
    expected = shapes_of(encoder.state_dict())
    assert shapes_of(converted) == {name: shape for name, shape in expected.items() if name not in REL_POS | NECK}
    assert expected.keys() - converted.keys() == REL_POS | NECK and len(converted) == 147
    assert converted["pos_embed"].shape == (1, 32, 32, 768)
    assert official.keys() - converted.keys() == {"cls_token", "norm.weight", "norm.bias"} | {
        f"blocks.{block}.mlp.fc{number}.{kind}"
        for block in range(12)
        for number in (1, 2)
        for kind in ("weight", "bias")
    }


@pytest.mark.parametrize("decoder", [False, True])
def test_official_file(tmp_path, decoder):
    state = make_mae(decoder=decoder)
    network = Surrogate(CONFIG)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    initialise_from_mae(network, save(state, tmp_path / "mae_pretrain_vit_base.pth"))
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    fresh = {f"blocks.{block}.attn.rel_pos_{axis}" for block in range(2) for axis in "hw"} | NECK
    names = {name.removeprefix("image_encoder.") for name in before if name.startswith("image_encoder.")}
    assert changed == {f"image_encoder.{name}" for name in names - fresh}
    encoder = network.image_encoder.state_dict()
    assert torch.equal(encoder["blocks.1.mlp.lin2.weight"], state["blocks.1.mlp.fc2.weight"])
    assert torch.equal(encoder["pos_embed"], state["pos_embed"][:, 1:].reshape(1, GRID, GRID, DIM))


def test_the_encoder_then_computes_what_mae_computes(tmp_path):
    """Against timm's transformer, without its class token: the same features at every patch."""
    state = make_mae()
    network = Surrogate(CONFIG)
    initialise_from_mae(network, save(state, tmp_path / "mae.pth"))
    theirs = vit.VisionTransformer(
        img_size=16 * GRID, embed_dim=DIM, depth=2, num_heads=2, num_classes=0, class_token=False, global_pool="avg"
    )
    without_token = {**state, "pos_embed": state["pos_embed"][:, 1:]}
    theirs.load_state_dict(
        {name: without_token[name] for name in theirs.state_dict() if name in without_token}, strict=False
    )
    images = torch.randn(2, 3, 16 * GRID, 16 * GRID)
    with torch.no_grad():
        _, ours = network.image_encoder(images)
        features = theirs.blocks(theirs.patch_embed(images) + theirs.pos_embed)
    torch.testing.assert_close(ours.flatten(2).transpose(1, 2), features, atol=1e-5, rtol=1e-5)


def test_a_file_in_sams_names(tmp_path):
    """`modified_mae_pretrain_vit_base.pth`: positions already on the grid, or none."""
    converted = mae_to_sam(make_mae(), GRID)
    for left_out in (set(), {"pos_embed"}):
        path = tmp_path / "modified_mae_pretrain_vit_base.pth"
        torch.save({name: tensor for name, tensor in converted.items() if name not in left_out}, path)
        network = Surrogate(CONFIG)
        before = network.image_encoder.pos_embed.clone()
        initialise_from_mae(network, path)
        assert torch.equal(network.image_encoder.pos_embed, before if left_out else converted["pos_embed"])
        assert torch.equal(network.image_encoder.blocks[0].mlp.lin1.weight, converted["blocks.0.mlp.lin1.weight"])


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda state: state.pop("blocks.1.attn.qkv.bias"), "1 missing (blocks.1.attn.qkv.bias)"),
        (lambda state: state.pop("pos_embed"), "1 missing (pos_embed)"),
        (lambda state: state.update({"head.weight": torch.zeros(2)}), "1 unexpected (head.weight)"),
        (lambda state: state.update({"decoder": torch.zeros(2)}), "1 unexpected (decoder)"),
        (lambda state: state.update({"neck.0.weight": torch.zeros(256, DIM, 1, 1)}), "5 missing (neck.1.weight"),
        (
            lambda state: state.update({"pos_embed": torch.zeros(1, 16, DIM)}),
            f"pos_embed is 1×16×{DIM}, not 1×4×4×{DIM}",
        ),
        (lambda state: state.update({"norm1.weight": torch.zeros(2)}), "1 unexpected (norm1.weight)"),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(tmp_path, spoil, expected):
    state = make_mae()
    spoil(state)
    network = Surrogate(CONFIG)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    message = error_of(initialise_from_mae, network, save(state, tmp_path / "mae.pth"))
    assert message.startswith(f"{tmp_path / 'mae.pth'}: is not a MAE for this encoder: ") and expected in message
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_another_size_is_refused(tmp_path):
    path = save(make_mae(dim=16), tmp_path / "mae.pth")
    assert "mis-shaped (pos_embed is 1×4×4×16, not 1×4×4×32" in error_of(initialise_from_mae, Surrogate(CONFIG), path)


def test_only_surrogates_of_sam_start_from_mae(tmp_path):
    assert "vit_b, vit_l, vit_h" in error_of(initialise_from_mae, build_surrogate("compact"), tmp_path / "mae.pth")


def test_a_missing_file_says_where_to_get_it_and_on_what_terms(tmp_path):
    message = error_of(initialise_from_mae, Surrogate(CONFIG), tmp_path / "mae_pretrain_vit_base.pth")
    assert "dl.fbaipublicfiles.com/mae/pretrain/mae_pretrain_vit_base.pth (CC BY-NC 4.0)" in message
    message = error_of(initialise_from_mae, Surrogate(CONFIG), tmp_path / "modified_mae_pretrain_vit_base.pth")
    assert "utils/convert_mae.py" in message


class RunsCode:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_code_in_a_file_is_not_run(tmp_path):
    marker, path = tmp_path / "ran", tmp_path / "evil.pth"
    torch.save({"model": {**make_mae(), "x": RunsCode(marker)}}, path)
    assert "could run code" in error_of(initialise_from_mae, Surrogate(CONFIG), path)
    assert run_convert(path, tmp_path / "out.pth") == 2
    assert not marker.exists() and not (tmp_path / "out.pth").exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the file must be harmful for this test to mean anything"


# The tool


def run_convert(*arguments) -> int:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as finished:
        patch.setattr(sys, "argv", ["convert_mae.py", *map(str, arguments)])
        runpy.run_path(str(REPOSITORY / "utils" / "convert_mae.py"), run_name="__main__")
    return finished.value.code


@pytest.fixture
def small_vit_b(monkeypatch):
    monkeypatch.setitem(SAM_CONFIGS, "vit_b", replace(CONFIG, image_size=1024))


def test_converting_by_hand(tmp_path, small_vit_b, capsys):
    official = save(make_mae(3, decoder=True), tmp_path / "mae_visualize_vit_base.pth")
    converted = tmp_path / "modified_mae_pretrain_vit_base.pth"
    assert run_convert(official, converted, "--image-size", 16 * GRID) == 0
    told = capsys.readouterr().out
    assert "pos_embed for 4×4 patches" in told and "CC BY-NC 4.0" in told
    assert "starting afresh: blocks.0.attn.rel_pos_h, blocks.0.attn.rel_pos_w, blocks.1." in told
    assert "left out: cls_token, norm.weight, norm.bias, mask_token, decoder_pos_embed, decoder_embed.weight" in told
    state = torch.load(converted, weights_only=True)
    with torch.device("meta"):
        expected = shapes_of(ImageEncoder(CONFIG).state_dict())
    assert list(state) == [name for name in expected if "rel_pos" not in name and "neck" not in name]
    direct = read_mae(official, expected)
    assert all(torch.equal(state[name], tensor) for name, tensor in direct.items()) and state.keys() == direct.keys()
    both = [Surrogate(CONFIG) for _ in range(2)]
    for network, path in zip(both, (official, converted), strict=True):
        initialise_from_mae(network, path)
    for name, tensor in both[0].image_encoder.state_dict().items():
        assert name.startswith("neck") or torch.equal(tensor, both[1].image_encoder.state_dict()[name]), name


def test_converting_writes_over_nothing_and_names_what_is_wrong(tmp_path, small_vit_b, capsys):
    official, out = save(make_mae(), tmp_path / "mae.pth"), tmp_path / "out.pth"
    out.write_bytes(b"mine")
    assert run_convert(official, out, "--image-size", 64) == 2
    assert f"{out}: exists already" in capsys.readouterr().err and out.read_bytes() == b"mine"
    assert run_convert(official, tmp_path / "new.pth", "--image-size", 100) == 2
    assert "--image-size 100: give a multiple of 16" in capsys.readouterr().err
    assert run_convert(tmp_path / "none.pth", tmp_path / "new.pth") == 2
    assert "none.pth: no such file" in capsys.readouterr().err and not (tmp_path / "new.pth").exists()
