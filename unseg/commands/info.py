"""unseg info: what is installed, which generator, on which device."""

from __future__ import annotations

import json
import platform
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unseg import __version__


def info(
    generator: Annotated[str, typer.Option(help="compact (shipped), or a weight file.")] = "compact",
    as_json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
) -> None:
    """Print the version, the device and the facts of a generator."""
    from unseg.compute.device import device_name
    from unseg.protecting.generators import fastest_generator

    device = device_name("auto")
    loaded = fastest_generator(generator, device)
    facts = {
        "unseg": __version__,
        "python": platform.python_version(),
        **_computes(loaded.network, device),
        "generator": f"{loaded.name} ({loaded.source})",
        "sha256": loaded.sha256,
        "input side": str(loaded.network.image_size),
        "mask prompt side": str(loaded.network.mask_size),
        **loaded.metadata,
    }
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        table.add_row(Text(name), Text(str(value), overflow="fold"))
    Console(highlight=False).print(table)


def _computes(network: Any, device: str) -> dict[str, str]:
    """Returns what computes a generator's noise, on which device, and how many parameters it has."""
    from unseg.storage.onnx_generator import OnnxGenerator

    if isinstance(network, OnnxGenerator):
        import onnxruntime

        library = {"onnxruntime": onnxruntime.__version__, "device": "cpu, one thread an image"}
        return {**library, "parameters": f"{network.parameters:,}"}
    import torch

    told = torch.cuda.get_device_name() if device != "cpu" else f"cpu, {torch.get_num_threads()} threads"
    count = sum(parameter.numel() for parameter in network.parameters())
    return {"torch": torch.__version__, "device": told, "parameters": f"{count:,}"}
