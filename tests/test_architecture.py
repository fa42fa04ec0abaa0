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

# The house from the top floor down. A module imports from its own room and from the floors below it, never sideways or up.
# The longest prefix of a module's name decides where it stands. docs/contributing describes the rooms in words.
FLOORS = (
    ("train", "generate", "eval", "scripts", "utils", "benchmarks", "tests"),
    ("unseg.quickstart",),
    ("unseg.cli",),
    ("unseg.commands", "unseg.web"),
    ("unseg.editions", "unseg.report"),
    ("unseg.protecting", "unseg.training", "unseg.evaluation"),
    ("unseg.victims", "unseg.data"),
    ("unseg.method",),
    ("unseg.storage", "unseg.compute"),
    ("segment_anything_training", "unseg.errors"),
)
FACE = "unseg"  # the package itself: it hands names on when they are asked for, and everybody may read its version
MODULES_BESIDE_THE_ROOMS = 6  # of unseg/, at most
LEFTOVERS = (
    ".venv",
    ".pytest_cache",
    ".hypothesis",
    ".ruff_cache",
    "build",
    "dist",
    "data",
    "weight_dir",
    "pretrained_checkpoint",
    "runs",
    "quickstart",
)
PACKAGES = ("unseg", "segment_anything_training")
ENTRIES = FLOORS[0]

Sources = dict[str, str]


# --- what is checked -------------------------------------------------------------------------------------------------


def project_files() -> list[Path]:
    """Every file that is tracked, or would be once added: relative to the root."""
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
    """The absolute names that `module` imports, wherever in the file: `from unseg import noise` is unseg.method.noise."""
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
            found |= {
                argument.value
                for argument in node.args[:1]
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
            }
    return found


def place(module: str) -> tuple[int, str] | None:
    """The floor, counted from the top, and the room that the longest prefix of `module` names; None where it has none."""
    floors = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
    parts = module.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    room = next((prefix for prefix in prefixes if prefix in floors), None)
    return None if room is None else (floors[room], room)


def unplaced_modules(sources: Sources) -> list[str]:
    return [
        f"{module}: give it a place in FLOORS"
        for module in sources
        if module.split(".")[0] in PACKAGES and module != FACE and place(module) is None
    ]


def upward_imports(sources: Sources) -> list[str]:
    """Imports from a higher floor, or from another room of the same floor."""
    complaints = []
    for module in sources:
        own = place(module)
        for name in sorted(imports(module, sources)) if own else []:
            other = place(name)
            if other is not None and other[0] < own[0]:
                complaints.append(f"{module} imports {name}, which lies above it")
            elif other is not None and other[0] == own[0] and other[1] != own[1] and own[1] not in ENTRIES:
                complaints.append(f"{module} imports {name}, a room beside its own")
    return complaints


def shared_names(sources: Sources) -> list[str]:
    """Modules of one name in different rooms: a reader who hears the name would have to ask which."""
    homes: dict[str, list[str]] = {}
    for module in sources:
        if module.split(".")[0] in PACKAGES and not any(name.startswith(module + ".") for name in sources):
            homes.setdefault(module.rpartition(".")[2], []).append(module)
    return [f"{' and '.join(same)}: one name" for same in homes.values() if len(same) > 1]


def modules_beside_the_rooms(sources: Sources) -> list[str]:
    beside = [
        module
        for module in sources
        if module.startswith("unseg.")
        and module.count(".") == 1
        and not any(name.startswith(module + ".") for name in sources)
    ]
    return (
        [] if len(beside) <= MODULES_BESIDE_THE_ROOMS else [f"too many modules beside the rooms: {', '.join(beside)}"]
    )


def import_cycles(sources: Sources) -> list[str]:
    """Every circle of imports, once, as `a → b → a`."""
    graph = {module: sorted(imports(module, sources) & sources.keys() - {module}) for module in sources}
    finished: set[str] = set()
    circles = []

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            circles.append(" → ".join([*path[path.index(module) :], module]))
        elif module not in finished:
            for target in graph[module]:
                visit(target, [*path, module])
            finished.add(module)

    for module in graph:
        visit(module, [])
    return circles


def imports_of_utils(sources: Sources) -> list[str]:
    """utils/ holds tools that a person runs; a test may import the one that it tests."""
    return [
        f"{module} imports {name}"
        for module in sources
        if module.split(".")[0] != "tests"
        for name in sorted(imports(module, sources))
        if name.split(".")[0] == "utils"
    ]


def other_pools(sources: Sources) -> list[str]:
    """Pools that unseg.compute.threads.worker_threads did not make: in their threads torch would take every core."""
    return [
        f"{module}:{node.lineno}: make it with unseg.compute.threads.worker_threads"
        for module, source in sources.items()
        if module.split(".")[0] in PACKAGES and module != "unseg.compute.threads"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "ThreadPoolExecutor"
    ]


# --- errors ----------------------------------------------------------------------------------------------------------


def broad_excepts(sources: Sources) -> list[str]:
    """`except:`, `except Exception`, `except BaseException`, alone or in a tuple, and the same through suppress()."""
    complaints = []
    for module, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ExceptHandler):
                caught = (
                    ["a bare except"]
                    if node.type is None
                    else [
                        ast.unparse(part)
                        for part in (node.type.elts if isinstance(node.type, ast.Tuple) else [node.type])
                    ]
                )
            elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "suppress":
                caught = [ast.unparse(argument) for argument in node.args]
            else:
                continue
            complaints += [
                f"{module}:{node.lineno}: {name}"
                for name in caught
                if name.split(".")[-1] in ("a bare except", "Exception", "BaseException")
            ]
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


def unread_settings(sources: Sources, config: str = "unseg.method.config") -> list[str]:
    """Fields of the configuration's dataclasses that no code outside the tests reads."""
    read = set().union(
        *(attributes_read(ast.parse(source)) for module, source in sources.items() if module.split(".")[0] != "tests")
    )
    return [
        f"{config}.{node.name}.{statement.target.id} is never read"
        for node in ast.walk(ast.parse(sources[config]))
        if is_dataclass(node)
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and statement.target.id not in read
    ]


# --- text ------------------------------------------------------------------------------------------------------------

MACHINE_PATH = re.compile(
    r"(?<![\w.~:/*$}-])/(?:root|home|Users|work|workspace|mnt|media|scratch|opt|tmp|srv)/[\w.-]|\b[A-Z]:\\{1,2}\w"
)
PACKAGE_INDEX = re.compile(
    r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|anaconda\.org|registry\.npmjs|index[-_]url|find[-_]links",
    re.IGNORECASE,
)


def matches(contents: Sources, pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path}:{number}: {line.strip()}"
        for path, content in contents.items()
        for number, line in enumerate(content.splitlines(), 1)
        if pattern.search(line)
    ]


# --- the rules hold --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [
        unplaced_modules,
        upward_imports,
        shared_names,
        modules_beside_the_rooms,
        import_cycles,
        imports_of_utils,
        other_pools,
        broad_excepts,
        unread_settings,
    ],
    ids=lambda rule: rule.__name__,
)
def test_code_keeps(rule) -> None:
    assert rule(modules()) == []


@pytest.mark.parametrize("pattern", [MACHINE_PATH, PACKAGE_INDEX], ids=["no machine path", "no package index"])
def test_files_have(pattern: re.Pattern[str]) -> None:
    assert matches(texts(), pattern) == []


def test_the_whole_project_is_seen() -> None:
    assert {"unseg.method.noise", "segment_anything_training", "tests.test_architecture"} <= modules().keys()
    assert {"install.sh", "pyproject.toml", ".ci/run"} <= texts().keys()


# --- and each rule can fail ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "import unseg.protecting.run",
        "from unseg.protecting import run",
        "from unseg.protecting.run import protect",
        "from ..protecting import run",
        "from ..protecting.run import protect",
        "def late():\n    from unseg.protecting import run",
        "import importlib\nimportlib.import_module('unseg.protecting.run')",
    ],
)
def test_upward_import_is_found(statement: str) -> None:
    sources = {
        "unseg": "",
        "unseg.method": "",
        "unseg.method.noise": statement,
        "unseg.protecting": "",
        "unseg.protecting.run": "from unseg.method import noise",
    }
    assert upward_imports(sources) == ["unseg.method.noise imports unseg.protecting.run, which lies above it"]


def test_import_of_a_room_on_the_same_floor_is_found() -> None:
    sources = {
        "unseg": "",
        "unseg.training.bilevel": "from unseg.protecting.run import protect",
        "unseg.protecting.run": "",
    }
    assert upward_imports(sources) == ["unseg.training.bilevel imports unseg.protecting.run, a room beside its own"]


def test_networks_know_nothing_of_the_method() -> None:
    sources = {
        "unseg": "",
        "unseg.method.noise": "",
        "segment_anything_training.build": "from unseg.method.noise import apply",
    }
    assert upward_imports(sources) == [
        "segment_anything_training.build imports unseg.method.noise, which lies above it"
    ]


def test_relative_import_in_a_package_is_resolved() -> None:
    sources = {
        "unseg": "",
        "unseg.data": "from .masks import load",
        "unseg.data.masks": "from ..training import bilevel",
        "unseg.training": "",
        "unseg.training.bilevel": "",
    }
    assert imports("unseg.data", sources) == {"unseg.data.masks"}
    assert upward_imports(sources) == ["unseg.data.masks imports unseg.training.bilevel, which lies above it"]


def test_module_without_a_place_is_found() -> None:
    sources = {"unseg": "", "unseg.misc": "", "unseg.data.catalog": "", "utils.join": ""}
    assert unplaced_modules(sources) == ["unseg.misc: give it a place in FLOORS"]


def test_one_name_in_two_rooms_is_found() -> None:
    sources = {
        "unseg.report": "",
        "unseg.report.page": "",
        "unseg.commands.report": "",
        "unseg.data.codes": "",
        "unseg.method.codes": "",
    }
    assert shared_names(sources) == ["unseg.data.codes and unseg.method.codes: one name"]


def test_a_crowd_beside_the_rooms_is_found() -> None:
    sources = {f"unseg.m{number}": "" for number in range(7)} | {"unseg.data.masks": ""}
    assert len(modules_beside_the_rooms(sources)) == 1
    del sources["unseg.m6"]
    assert modules_beside_the_rooms(sources) == []


def test_circle_is_found() -> None:
    sources = {
        "unseg.method.noise": "from unseg import frame",
        "unseg.frame": "import unseg.losses",
        "unseg.losses": "from unseg.method.noise import apply",
    }
    assert import_cycles(sources) == ["unseg.method.noise → unseg.frame → unseg.losses → unseg.method.noise"]
    assert import_cycles({**sources, "unseg.losses": "import torch"}) == []


def test_import_of_utils_is_found() -> None:
    sources = {
        "unseg.checkpoint": "from utils.join import join",
        "utils.join": "",
        "unseg.method.noise": "import torch.utils.data",
        "tests.test_join": "import utils.join",
    }
    assert imports_of_utils(sources) == ["unseg.checkpoint imports utils.join"]


def test_pool_of_unlimited_threads_is_found() -> None:
    source = "def f(pool: ThreadPoolExecutor):\n    return futures.ThreadPoolExecutor(4)"
    assert other_pools({"unseg.data.loader": source, "unseg.compute.threads": source, "tests.test_x": source}) == [
        "unseg.data.loader:2: make it with unseg.compute.threads.worker_threads"
    ]


@pytest.mark.parametrize(
    ("clause", "count"),
    [
        ("except:", 1),
        ("except Exception:", 1),
        ("except (ValueError, BaseException) as error:", 1),
        ("except builtins.Exception:", 1),
        ("except ValueError:", 0),
        ("except (OSError, ValueError):", 0),
    ],
)
def test_broad_except_is_found(clause: str, count: int) -> None:
    assert len(broad_excepts({"unseg.method.noise": f"try:\n    pass\n{clause}\n    pass\n"})) == count


def test_broad_suppress_is_found() -> None:
    assert broad_excepts({"m": "with contextlib.suppress(OSError, Exception):\n    pass"}) == ["m:1: Exception"]


def test_unread_setting_is_found() -> None:
    config = (
        "@dataclass(frozen=True)\nclass Settings:\n    used: int = 1\n    checked: int = 2\n    stored: int = 3\n"
        "    def __post_init__(self):\n        assert self.checked > 0\n"
    )
    sources = {
        "unseg.method.config": config,
        "unseg.bilevel": "print(settings.used)\nother.stored = 1",
        "tests.test_x": "settings.stored",
    }
    assert unread_settings(sources) == [
        "unseg.method.config.Settings.checked is never read",
        "unseg.method.config.Settings.stored is never read",
    ]


# The bad lines are put together here, so that this file keeps the rules itself.
@pytest.mark.parametrize(
    "line",
    [
        "/".join(["data = '", "home", "alice", "voc'"]),
        "/".join(["cd ", "root", "UnSeg"]),
        "/".join(["--out=", "tmp", "x"]),
        "C:" + "\\Users",
    ],
)
def test_machine_path_is_found(line: str) -> None:
    assert matches({"f": f"fine\n{line}"}, MACHINE_PATH) == [f"f:2: {line}"]


@pytest.mark.parametrize(
    "line",
    [
        "#!/usr/bin/env bash",
        "PYTHON=/path/to/python3",
        "data/root/x",
        "~/work/photos",
        "$HOME/tmp/x",
        "https://example.com/home/x",
        "A: fine",
    ],
)
def test_other_slashes_are_no_machine_path(line: str) -> None:
    assert matches({"f": line}, MACHINE_PATH) == []


@pytest.mark.parametrize(
    "line", ["pip install --" + "index" + "-url x", "https://pypi" + ".org/simple", "PIP_FIND" + "_LINKS=x"]
)
def test_package_index_is_found(line: str) -> None:
    assert matches({"f": line}, PACKAGE_INDEX) == [f"f:1: {line}"]
