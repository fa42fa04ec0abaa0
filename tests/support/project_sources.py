"""The project's own files, as the rules of the house read them."""

from __future__ import annotations

import ast
import subprocess
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("unseg", "segment_anything_training")
LEFTOVERS = (
    ".venv",
    ".pytest_cache",
    ".hypothesis",
    ".ruff_cache",
    ".mypy_cache",
    "build",
    "dist",
    "data",
    "weight_dir",
    "pretrained_checkpoint",
    "runs",
    "quickstart",
    "site",
)

Sources = dict[str, str]
"""Path or module name → content."""


def project_files() -> list[Path]:
    """Returns every file that is tracked, or would be once added, relative to the root."""
    if (ROOT / ".git").exists():
        listing = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        paths = [Path(name) for name in listing.split("\0") if name]
    else:  # an unpacked archive of the project: all but what set-up, tests and runs leave
        tops = [path for path in ROOT.iterdir() if path.name not in LEFTOVERS and path.suffix != ".egg-info"]
        paths = [path.relative_to(ROOT) for top in tops for path in (top, *top.rglob("*"))]
    return sorted(path for path in paths if (ROOT / path).is_file())


@cache
def texts() -> Sources:
    """Returns path → content of every text file."""
    contents = {}
    for path in project_files():
        content = (ROOT / path).read_bytes()
        if b"\0" not in content:
            contents[path.as_posix()] = content.decode("utf-8")
    return contents


def modules() -> Sources:
    """Returns module name → source of every Python file."""
    return {module_name(path): source for path, source in texts().items() if path.endswith(".py")}


def module_name(path: str) -> str:
    """Returns the dotted name of a file: unseg/data/masks.py is unseg.data.masks, and a package is its folder."""
    parts = Path(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def top_of(module: str) -> str:
    """Returns the first part of a dotted name."""
    return module.partition(".")[0]


@cache
def tree_of(source: str) -> ast.Module:
    """Returns the syntax tree of a file; nobody changes it."""
    return ast.parse(source)


@cache
def _packages(names: frozenset[str]) -> frozenset[str]:
    return frozenset(name.rpartition(".")[0] for name in names if "." in name)


def is_package(module: str, sources: Sources) -> bool:
    """Returns whether a module has modules below it."""
    return module in _packages(frozenset(sources))


def imports(module: str, sources: Sources, only: ast.AST | None = None) -> set[str]:
    """Returns the absolute names that a module imports: `from unseg import noise` is unseg.noise where there is one.

    only: the part of its tree that is looked at; without it all of it, functions too.
    """
    package = module if is_package(module, sources) else module.rpartition(".")[0]
    found: set[str] = set()
    for node in _importing(only or tree_of(sources[module])):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
            found |= {name if name in sources else base for name in names}
        else:
            found |= {argument.value for argument in node.args[:1] if _is_text(argument)}
    return found


@cache
def _importing(tree: ast.AST) -> tuple[ast.Import | ast.ImportFrom | ast.Call, ...]:
    """Returns the statements of a tree that import, and the calls that import by name."""
    return tuple(
        node
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        or (isinstance(node, ast.Call) and called(node) in ("import_module", "__import__"))
    )


def called(node: ast.Call) -> str:
    """Returns the last part of what is called: `futures.ThreadPoolExecutor()` calls ThreadPoolExecutor."""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
