"""Hugging Face folders of strangers: whatever does not fit is one line before a network is built of it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from unseg.errors import UserError
from unseg.victims.pretrained import build_transformers

pytest.importorskip("transformers")  # imported here, since it takes seconds
SMALL = {"model_type": "segformer", "depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32], "decoder_hidden_size": 8}


def refused(folder: Path) -> str:
    begun = time.monotonic()
    with pytest.raises(UserError) as caught:
        build_transformers(
            "Segformer", "ForSemanticSegmentation", 2, folder, r"^classifier", lambda kind: kind(**SMALL)
        )
    assert "\n" not in str(caught.value) and time.monotonic() - begun < 30
    return str(caught.value)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("{", "config.json is no configuration"),
        ("[" * 100_000, "config.json is no configuration"),
        ([1], "config.json is no configuration"),
        ({**SMALL, "model_type": "bert"}, "is a bert, this network is a segformer"),
        ({**SMALL, "depths": [10**9, 1, 1, 1]}, "says depths 1000000000, as no network has"),
        ({**SMALL, "hidden_sizes": [10**9] * 4}, "says hidden_sizes 1000000000, as no network has"),
        ({**SMALL, "more": {"image_size": float("inf")}}, "says image_size inf, as no network has"),
        ({**SMALL, "hidden_sizes": "wide"}, "cannot be read ("),
        ({**SMALL, "depths": [1.5, 1, 1, 1]}, "cannot be read ("),
        ({**SMALL, "num_attention_heads": [0, 0, 0, 0]}, "cannot be read ("),
        (SMALL, "does not fit this network: "),
    ],
)
def test_configurations(config: Any, said: str, tmp_path: Path) -> None:
    text = config if isinstance(config, str) else json.dumps(config)
    (tmp_path / "config.json").write_text(text)
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors", {"format": "pt"})
    assert said in refused(tmp_path)


def test_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    assert "holds none of model.safetensors" in refused(tmp_path)
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "pytorch_model.bin")
    assert "its entries claim 4000000000000 bytes" in refused(tmp_path)
    save_file({"a": torch.zeros(1).to(torch.float8_e5m2)}, tmp_path / "model.safetensors")
    assert "a has the type F8_E5M2" in refused(tmp_path)
