"""Files of weights and checkpoints as a stranger may make them: each is to be one line, at once."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from segment_anything_training.key_remaps import State

SIZES = {"image_size": 16, "embed_dim": 8, "depth": 2, "num_heads": 1, "global_blocks": [0], "window": 1}
WRONG_SIZES: dict[str, Any] = {
    "deep": "[" * 100_000,
    "list": [1, 2],
    "null": None,
    "text": {**SIZES, "image_size": "16"},
    "nan": {**SIZES, "image_size": float("nan")},
    "far": {**SIZES, "image_size": 16 * 10**12},
    "wide": {**SIZES, "embed_dim": 10**9},
    "blocks": {**SIZES, "depth": 10**7},
    "half a block": {**SIZES, "depth": 1.5},
    "half a head": {**SIZES, "num_heads": 0.5},
    "no window": {**SIZES, "window": 0},
    "window below 0": {**SIZES, "image_size": 64, "window": -3},
    "truth": {**SIZES, "window": True},
    "global text": {**SIZES, "global_blocks": "ab"},
    "global half": {**SIZES, "global_blocks": [0.5]},
    "more": {**SIZES, "more": 1},
}
FOREIGN_TYPES = ("float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "complex64", "int8", "uint8", "uint16", "uint64")
F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
HEADERS: dict[str, Any] = {  # name → header of a safetensors file with 4 bytes of elements
    "thousand dimensions": {"a": {**F32, "shape": [1] * 1000}},
    "many dimensions": {"a": {**F32, "shape": [1] * 100_000}},
    "empty and huge": {"a": {**F32, "shape": [0, 2**62], "data_offsets": [0, 0]}},
    "empty grid": {"image_encoder.pos_embed": {**F32, "shape": [1, 2**40, 0, 768], "data_offsets": [0, 0]}},
    "overflow": {"a": {**F32, "shape": [2**62, 4]}},
    "shape below 0": {"a": {**F32, "shape": [-1]}},
    "shape in text": {"a": {**F32, "shape": "1"}},
    "truth for a side": {"a": {**F32, "shape": [True]}},
    "type in a list": {"a": {**F32, "dtype": ["F32"]}},
    "offset below 0": {"a": {**F32, "data_offsets": [-4, 0]}},
    "overlap": {"a": F32, "b": F32},
    "facts that are no text": {"__metadata__": {"a": 1}, "a": F32},
    "facts in a list": {"__metadata__": [], "a": F32},
    "no entries": {},
    "a list": [F32],
    "too many entries": {f"a{number}": {**F32, "shape": [0], "data_offsets": [0, 0]} for number in range(60_000)},
}


def write_safetensors(path: Path, header: bytes, elements: bytes = bytes(4), length: int | None = None) -> None:
    """Writes a safetensors file of any header. length: what it says of the header's; None: the truth."""
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + elements)


def strange_tensors(right: torch.Tensor) -> dict[str, torch.Tensor]:
    """Tensors that PyTorch saves and reads, by what is wrong with them. right: the one that they take the place of."""
    zeros = torch.zeros(right.shape)
    return {
        "expanded": torch.zeros(1).expand(10**6, 10**6),
        "sparse": zeros.to_sparse(),
        "of the meta device": torch.zeros(right.shape, device="meta"),
        "quantised": torch.quantize_per_tensor(zeros, 0.1, 0, torch.qint8),
        "nested": torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
        "of nine dimensions": torch.zeros([1] * 9),
        "empty": torch.zeros(0),
        **{f"of {kind}": zeros.to(getattr(torch, kind)) for kind in FOREIGN_TYPES},
    }


def write_hostile_weights(folder: Path, whole: State, facts: dict[str, str]) -> Iterator[Path]:
    """Writes one file after the other, made of a whole state and its facts, and yields each."""
    name, right = next((name, tensor) for name, tensor in whole.items() if tensor.dim() > 1)

    def saved(what: str, state: dict[str, torch.Tensor], more: dict[str, str]) -> Path:
        path = folder / f"{what}.safetensors"
        safetensors.torch.save_file(state, path, more)
        return path

    for what, sizes in WRONG_SIZES.items():
        text = sizes if isinstance(sizes, str) else json.dumps(sizes)
        yield saved(f"sizes {what}", {"a": torch.zeros(1)}, {"network": "custom", "sam_config": text})
    yield saved("sizes of others", whole, {"network": "custom", "sam_config": json.dumps(SIZES)})
    yield saved("escapes", whole, {**facts, "network": "\x1b]0;x\x07"})
    yield saved("long version", whole, {**facts, "format_version": "9" * 10_000})
    yield saved("long name", {**whole, "x" * 10**6: torch.zeros(1)}, facts)
    for kind in FOREIGN_TYPES:
        yield saved(f"of {kind}", {**whole, name: torch.zeros(right.shape).to(getattr(torch, kind))}, facts)
    for what, header in HEADERS.items():
        write_safetensors(folder / f"{what}.safetensors", json.dumps(header).encode())
        yield folder / f"{what}.safetensors"
    deep = b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
    for what, header, length in (("deep", deep, None), ("long", b"{}", 2**63), ("longer", b"{}", 2 * 10**9)):
        write_safetensors(folder / f"header {what}.safetensors", header, length=length)
        yield folder / f"header {what}.safetensors"
    yield from _pickles(folder, whole, name)
    for what, content in (("none", b""), ("3", b"abc"), ("8", bytes(8)), ("9", bytes(8) + b"{")):
        (folder / f"{what} bytes").write_bytes(content)
        yield folder / f"{what} bytes"


def _pickles(folder: Path, whole: State, name: str) -> Iterator[Path]:
    for what, tensor in strange_tensors(whole[name]).items():
        torch.save({**whole, name: tensor}, folder / f"{what}.pth")
        yield folder / f"{what}.pth"
    itself: dict[str, Any] = {}
    itself["a"] = itself
    other = {"a tuple": {("a",): torch.zeros(1)}, "a number": {1: torch.zeros(1)}, "itself": itself, "a list": [1, 2]}
    for what, content in other.items():
        torch.save(content, folder / f"key {what}.pth")
        yield folder / f"key {what}.pth"
    torch.save({"a": torch.zeros(2**20)}, folder / "large.pth")
    with zipfile.ZipFile(folder / "large.pth") as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    with zipfile.ZipFile(folder / "compressed.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    yield folder / "compressed.pth"
    yield _with_a_hole(folder / "hole.pth", whole, name)


def _with_a_hole(path: Path, whole: State, name: str) -> Path:
    """Writes an old-style pickle of a hundred bytes with a hole of 8 GB behind it, which no disk has to hold."""
    torch.save({name: whole[name][:1]}, path, _use_new_zipfile_serialization=False)
    with open(path, "r+b") as file:
        file.truncate(8 * 2**30)
    return path
