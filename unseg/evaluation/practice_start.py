"""What networks that are trained as people train start from."""

from __future__ import annotations

from torch import nn

from unseg.evaluation.practice import IMAGENET, Practice
from unseg.victims.imagenet import freeze_encoder, load_imagenet, named_by_tensorflow
from unseg.victims.pretrained import read_weights
from unseg.victims.semantic_networks import load_pretrained


def start_network(network: nn.Module, practice: Practice | None) -> tuple[nn.Module, list[str]]:
    """Returns the network with ImageNet weights in its encoder and a frozen encoder, where those are asked for, and
    sentences for the person. It is changed in place. practice: None changes nothing."""
    if practice is None:
        return network, []
    said = [load_imagenet(network)] if practice.weights == IMAGENET else []
    return (freeze_encoder(network) if practice.frozen_encoder else network), said


def load_file(network: nn.Module, practice: Practice) -> list[str]:
    """Loads the file of weights that is named for a semantic network, if one is, and returns sentences for the
    person."""
    path = practice.file
    if path is None:
        return []
    if named_by_tensorflow(read_weights(path)):
        return [load_imagenet(network, path)]
    return load_pretrained(network, path)
