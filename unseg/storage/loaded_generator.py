"""A generator as it was loaded, from whatever file and for whatever library: with the facts that a manifest holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class LoadedGenerator:
    """A generator ready to use: evaluation mode, no gradients.

    network: a module of torch, or an `unseg.storage.onnx_generator.OnnxGenerator`. name: vit_b, vit_l, vit_h, compact,
    or "custom" for SAM's architecture in another size. source: the file's name. sha256: of the file. metadata: what its
    safetensors say beside the tensors (empty for .pth).
    """

    network: Any
    name: str
    source: str
    sha256: str
    metadata: dict[str, str] = field(default_factory=dict)
