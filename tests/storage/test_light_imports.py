"""Modules that protecting with little installed needs: none of them loads torch, which takes seconds and gigabytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "module",
    [
        "unseg.storage.files",
        "unseg.storage.locks",
        "unseg.storage.image_limits",
        "unseg.storage.image_headers",
        "unseg.storage.image_metadata",
        "unseg.storage.image_opening",
        "unseg.storage.second_decoder",
        "unseg.storage.image_decoding",
        "unseg.storage.image_encoding",
        "unseg.storage.panels",
        "unseg.storage.settings_diff",
        "unseg.compute.in_flight",
        "unseg.compute.progress",
        "unseg.compute.stopping",
        "unseg.compute.threads",
        "unseg.protecting.grabcut",
        "unseg.protecting.prompt_files",
        "unseg.protecting.prompted_objects",
        "unseg.protecting.protector",
        "unseg.protecting.run",
        "unseg.protecting.verification",
        "unseg.web.server",
    ],
)
def test_torch_is_not_loaded(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode == 0
