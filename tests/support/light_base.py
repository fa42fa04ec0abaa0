"""A Python in which only the light base is installed: the packages of every extra are neither found nor imported."""

from __future__ import annotations

from unseg.errors import EXTRA_OF

# Everything that the base does not bring, and what the base does not need of what tests bring.
EXTRAS = (*EXTRA_OF, "onnx", "huggingface_hub", "networkx", "sympy", "imageio")
# Code that a process runs first.
BLOCK = f"""
import importlib.abc, importlib.machinery, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
import importlib.util
found = importlib.util.find_spec
def find_spec(name, package=None):
    return None if name.partition(".")[0] in {EXTRAS!r} else found(name, package)
importlib.util.find_spec = find_spec
"""
