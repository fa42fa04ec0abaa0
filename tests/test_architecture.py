"""The rules of the house, read off the syntax trees: imports point down, nothing is hidden, nothing is unused.

Every rule is a function from source text to a list of complaints, so that each can be shown to fail on a bad snippet.
"""
from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# From the bottom up. A module imports only from its own layer and those before it. The longest prefix decides.
LAYERS = (
    ("segment_anything_training",),
    ("unseg", "unseg.errors", "unseg.config", "unseg.files", "unseg.images", "unseg.device", "unseg.distributed", "unseg.stopping"),
    ("unseg.frame", "unseg.noise", "unseg.data", "unseg.prompts", "unseg.losses", "unseg.metrics", "unseg.recipes",
     "unseg.checkpoint", "unseg.forecast", "unseg.gpu", "unseg.lock", "unseg.manifest", "unseg.outputs"),
    ("unseg.protector", "unseg.objects", "unseg.settings", "unseg.pipeline", "unseg.shards"),
    ("unseg.bilevel", "unseg.protect", "unseg.verify", "unseg.evaluation", "unseg.report",
     "unseg.validation", "unseg.watch", "unseg.run_folder", "unseg.training_state"),
    ("unseg.editions",),
    ("unseg.commands",),
    ("unseg.cli", "unseg.__main__", "unseg.quickstart", "unseg.benchmark", "unseg.stage_clock", "unseg.plain_generation", "unseg.launch", "unseg.plain_step", "unseg.step_benchmark"),
    ("train", "generate", "eval", "scripts", "utils", "tests"),
)
LEFTOVERS = (".venv", ".pytest_cache", ".hypothesis", ".ruff_cache", "build", "dist", "data", "weight_dir",
             "pretrained_checkpoint", "runs", "quickstart")
PACKAGES = ("unseg", "segment_anything_training")
ENTRIES = LAYERS[-1]

Sources = dict[str, str]


# --- what is checked -------------------------------------------------------------------------------------------------


def project_files() -> list[Path]:
    """Every file that is tracked, or would be once added: relative to the root."""
    if (ROOT / ".git").exists():
        listing = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                                 cwd=ROOT, check=True, capture_output=True, text=True).stdout
        paths = [Path(name) for name in listing.split("\0") if name]
    else:  # an unpacked archive of the project: all but what set-up, tests and runs leave
        tops = [path for path in ROOT.iterdir() if path.name not in LEFTOVERS and path.suffix != ".egg-info"]
        paths = [path.relative_to(ROOT) for top in tops for path in (top, *top.rglob("*"))]
    return sorted(path for path in paths if (ROOT / path).is_file())


def texts() -> Sources:
    """Path → content of every text file."""
    contents = {}
    for path in project_files():
        content = (ROOT / path).read_bytes()
        if b"\0" not in content:
            contents[path.as_posix()] = content.decode("utf-8")
    return contents


def module_name(path: str) -> str:
    parts = Path(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> Sources:
    """Module name → source of every Python file."""
    return {module_name(path): source for path, source in texts().items() if path.endswith(".py")}


# --- imports ---------------------------------------------------------------------------------------------------------


def imports(module: str, sources: Sources) -> set[str]:
    """The absolute names that `module` imports, wherever in the file: `from unseg import noise` is unseg.noise."""
    is_package = any(name.startswith(module + ".") for name in sources)
    package = module if is_package else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(sources[module])):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.add(full if full in sources else base)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            found |= {argument.value for argument in node.args[:1]
                      if isinstance(argument, ast.Constant) and isinstance(argument.value, str)}
    return found


def layer(module: str) -> int | None:
    """The layer that the longest prefix of `module` names; None where the plan has no place for it."""
    ranks = {name: rank for rank, names in enumerate(LAYERS) for name in names}
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in ranks and (length == len(parts) or prefix != "unseg"):
            return ranks[prefix]
    return None


def internal(name: str) -> bool:
    return name.split(".")[0] in (*PACKAGES, *ENTRIES)


def unplaced_modules(sources: Sources) -> list[str]:
    return [f"{module}: give it a place in LAYERS" for module in sources
            if module.split(".")[0] in PACKAGES and layer(module) is None]


def upward_imports(sources: Sources) -> list[str]:
    return [f"{module} imports {name}, which lies above it"
            for module in sources if layer(module) is not None
            for name in sorted(imports(module, sources))
            if internal(name) and layer(name) is not None and layer(name) > layer(module)]


def import_cycles(sources: Sources) -> list[str]:
    """Every circle of imports, once, as `a → b → a`."""
    graph = {module: sorted(imports(module, sources) & sources.keys() - {module}) for module in sources}
    finished: set[str] = set()
    circles = []

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            circles.append(" → ".join([*path[path.index(module):], module]))
        elif module not in finished:
            for target in graph[module]:
                visit(target, [*path, module])
            finished.add(module)

    for module in graph:
        visit(module, [])
    return circles


def imports_of_utils(sources: Sources) -> list[str]:
    """utils/ holds tools that a person runs; a test may import the one that it tests."""
    return [f"{module} imports {name}" for module in sources if module.split(".")[0] != "tests"
            for name in sorted(imports(module, sources)) if name.split(".")[0] == "utils"]


def other_pools(sources: Sources) -> list[str]:
    """Pools that unseg.device.worker_threads did not make: in their threads torch would take every core."""
    return [f"{module}:{node.lineno}: make it with unseg.device.worker_threads"
            for module, source in sources.items() if module.split(".")[0] in PACKAGES and module != "unseg.device"
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "ThreadPoolExecutor"]


# --- errors ----------------------------------------------------------------------------------------------------------


def broad_excepts(sources: Sources) -> list[str]:
    """`except:`, `except Exception`, `except BaseException`, alone or in a tuple, and the same through suppress()."""
    complaints = []
    for module, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ExceptHandler):
                caught = ["a bare except"] if node.type is None else [ast.unparse(part) for part in
                          (node.type.elts if isinstance(node.type, ast.Tuple) else [node.type])]
            elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "suppress":
                caught = [ast.unparse(argument) for argument in node.args]
            else:
                continue
            complaints += [f"{module}:{node.lineno}: {name}" for name in caught
                           if name.split(".")[-1] in ("a bare except", "Exception", "BaseException")]
    return complaints


# --- configuration ---------------------------------------------------------------------------------------------------


def is_dataclass(node: ast.AST) -> bool:
    return isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(part) for part in node.decorator_list)


def attributes_read(tree: ast.AST) -> set[str]:
    """Names x that some `….x` reads, except in __post_init__: checking a setting is not using it."""
    if isinstance(tree, ast.FunctionDef) and tree.name == "__post_init__":
        return set()
    names = {tree.attr} if isinstance(tree, ast.Attribute) and isinstance(tree.ctx, ast.Load) else set()
    return names.union(*(attributes_read(child) for child in ast.iter_child_nodes(tree)))


def unread_settings(sources: Sources, config: str = "unseg.config") -> list[str]:
    """Fields of the configuration's dataclasses that no code outside the tests reads."""
    read = set().union(*(attributes_read(ast.parse(source)) for module, source in sources.items()
                         if module.split(".")[0] != "tests"))
    return [f"{config}.{node.name}.{statement.target.id} is never read"
            for node in ast.walk(ast.parse(sources[config])) if is_dataclass(node)
            for statement in node.body if isinstance(statement, ast.AnnAssign) and statement.target.id not in read]


# --- text ------------------------------------------------------------------------------------------------------------

MACHINE_PATH = re.compile(
    r"(?<![\w.~:/*$}-])/(?:root|home|Users|work|workspace|mnt|media|scratch|opt|tmp|srv)/[\w.-]|\b[A-Z]:\\{1,2}\w")
PACKAGE_INDEX = re.compile(
    r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|anaconda\.org|registry\.npmjs|index[-_]url|find[-_]links",
    re.IGNORECASE)


def matches(contents: Sources, pattern: re.Pattern[str]) -> list[str]:
    return [f"{path}:{number}: {line.strip()}" for path, content in contents.items()
            for number, line in enumerate(content.splitlines(), 1) if pattern.search(line)]


# --- the rules hold --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [unplaced_modules, upward_imports, import_cycles, imports_of_utils, other_pools,
                                  broad_excepts, unread_settings], ids=lambda rule: rule.__name__)
def test_code_keeps(rule) -> None:
    assert rule(modules()) == []


@pytest.mark.parametrize("pattern", [MACHINE_PATH, PACKAGE_INDEX], ids=["no machine path", "no package index"])
def test_files_have(pattern: re.Pattern[str]) -> None:
    assert matches(texts(), pattern) == []


def test_the_whole_project_is_seen() -> None:
    assert {"unseg.noise", "segment_anything_training", "tests.test_architecture"} <= modules().keys()
    assert {"install.sh", "pyproject.toml", ".ci/run"} <= texts().keys()


# --- and each rule can fail ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statement", [
    "import unseg.protect",
    "from unseg import protect",
    "from unseg.protect import protect_folder",
    "from . import protect",
    "from .protect import protect_folder",
    "def late():\n    from unseg import protect",
    "import importlib\nimportlib.import_module('unseg.protect')",
])
def test_upward_import_is_found(statement: str) -> None:
    sources = {"unseg": "", "unseg.noise": statement, "unseg.protect": "from unseg import noise"}
    assert upward_imports(sources) == ["unseg.noise imports unseg.protect, which lies above it"]


def test_networks_know_nothing_of_the_method() -> None:
    sources = {"unseg": "", "unseg.errors": "", "segment_anything_training.build": "from unseg.errors import UserError"}
    assert upward_imports(sources) == ["segment_anything_training.build imports unseg.errors, which lies above it"]


def test_relative_import_in_a_package_is_resolved() -> None:
    sources = {"unseg": "", "unseg.data": "from .masks import load", "unseg.data.masks": "from .. import bilevel",
               "unseg.bilevel": ""}
    assert imports("unseg.data", sources) == {"unseg.data.masks"}
    assert upward_imports(sources) == ["unseg.data.masks imports unseg.bilevel, which lies above it"]


def test_module_without_a_place_is_found() -> None:
    sources = {"unseg.misc": "", "unseg.data.catalog": "", "utils.join": ""}
    assert unplaced_modules(sources) == ["unseg.misc: give it a place in LAYERS"]


def test_circle_is_found() -> None:
    sources = {"unseg.noise": "from unseg import frame", "unseg.frame": "import unseg.losses",
               "unseg.losses": "from unseg.noise import apply"}
    assert import_cycles(sources) == ["unseg.noise → unseg.frame → unseg.losses → unseg.noise"]
    assert import_cycles({**sources, "unseg.losses": "import torch"}) == []


def test_import_of_utils_is_found() -> None:
    sources = {"unseg.checkpoint": "from utils.join import join", "utils.join": "",
               "unseg.noise": "import torch.utils.data", "tests.test_join": "import utils.join"}
    assert imports_of_utils(sources) == ["unseg.checkpoint imports utils.join"]


def test_pool_of_unlimited_threads_is_found() -> None:
    source = "def f(pool: ThreadPoolExecutor):\n    return futures.ThreadPoolExecutor(4)"
    assert other_pools({"unseg.data.loader": source, "unseg.device": source, "tests.test_x": source}) == [
        "unseg.data.loader:2: make it with unseg.device.worker_threads"]


@pytest.mark.parametrize(("clause", "count"), [
    ("except:", 1), ("except Exception:", 1), ("except (ValueError, BaseException) as error:", 1),
    ("except builtins.Exception:", 1), ("except ValueError:", 0), ("except (OSError, ValueError):", 0),
])
def test_broad_except_is_found(clause: str, count: int) -> None:
    assert len(broad_excepts({"unseg.noise": f"try:\n    pass\n{clause}\n    pass\n"})) == count


def test_broad_suppress_is_found() -> None:
    assert broad_excepts({"m": "with contextlib.suppress(OSError, Exception):\n    pass"}) == ["m:1: Exception"]


def test_unread_setting_is_found() -> None:
    config = ("@dataclass(frozen=True)\nclass Settings:\n    used: int = 1\n    checked: int = 2\n    stored: int = 3\n"
              "    def __post_init__(self):\n        assert self.checked > 0\n")
    sources = {"unseg.config": config, "unseg.bilevel": "print(settings.used)\nother.stored = 1",
               "tests.test_x": "settings.stored"}
    assert unread_settings(sources) == ["unseg.config.Settings.checked is never read",
                                        "unseg.config.Settings.stored is never read"]


# The bad lines are put together here, so that this file keeps the rules itself.
@pytest.mark.parametrize("line", ["/".join(["data = '", "home", "alice", "voc'"]), "/".join(["cd ", "root", "UnSeg"]),
                                  "/".join(["--out=", "tmp", "x"]), "C:" + "\\Users"])
def test_machine_path_is_found(line: str) -> None:
    assert matches({"f": f"fine\n{line}"}, MACHINE_PATH) == [f"f:2: {line}"]


@pytest.mark.parametrize("line", ["#!/usr/bin/env bash", "PYTHON=/path/to/python3", "data/root/x", "~/work/photos",
                                  "$HOME/tmp/x", "https://example.com/home/x", "A: fine"])
def test_other_slashes_are_no_machine_path(line: str) -> None:
    assert matches({"f": line}, MACHINE_PATH) == []


@pytest.mark.parametrize("line", ["pip install --" + "index" + "-url x", "https://pypi" + ".org/simple",
                                  "PIP_FIND" + "_LINKS=x"])
def test_package_index_is_found(line: str) -> None:
    assert matches({"f": line}, PACKAGE_INDEX) == [f"f:1: {line}"]
