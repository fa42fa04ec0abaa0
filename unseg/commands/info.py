"""unseg info: what is installed, which generator, on which device."""

from __future__ import annotations

import json
import platform
from typing import Annotated

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
    import torch

    from unseg.storage.weights import load_generator

    loaded = load_generator(generator)
    count = sum(parameter.numel() for parameter in loaded.network.parameters())
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    facts = {
        "unseg": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device,
        "generator": f"{loaded.name} ({loaded.source})",
        "sha256": loaded.sha256,
        "parameters": f"{count:,}",
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
