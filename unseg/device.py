"""Where networks run."""
from __future__ import annotations

import torch

from unseg.errors import UserError


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` is cuda where there is one, else cpu."""
    available = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: unknown; give auto, cpu or cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name}: give auto, cpu or cuda")
    if device.type == "cuda" and not available:
        raise UserError(f"--device {name}: torch sees no GPU here; give --device cpu")
    return device
