"""The layers of the house, read off the syntax trees: imports point down, names are unique, nothing is for tests alone.

Every rule is a function from sources to a list of complaints, so that each can be shown to fail on a bad snippet. Rules
on sizes, errors, settings and words are in test_house_rules.py.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.project_sources import (
    PACKAGES,
    Sources,
    called,
    imports,
    is_package,
    modules,
    texts,
    top_of,
    tree_of,
)

# The house from the top floor down. A module imports from its own room and from the floors below it, never sideways or
# up. The longest prefix of a module's name decides where it stands.
FLOORS = (
    ("train", "generate", "eval", "scripts", "utils", "benchmarks", "tests"),
    ("unseg.quickstart", "unseg.transforms"),
    ("unseg.cli",),
    ("unseg.commands",),
    ("unseg.web",),
    ("unseg.editions", "unseg.report"),
    ("unseg.protecting", "unseg.training", "unseg.evaluation"),
    ("unseg.victims", "unseg.data"),
    ("unseg.method",),
    ("unseg.storage", "unseg.compute"),
    ("segment_anything_training", "unseg.errors", "unseg.counts"),
)
FACE = "unseg"  # the package itself: it hands names on when they are asked for, and everybody may read its version
ENTRIES = FLOORS[0]
MODULES_BESIDE_THE_ROOMS = 6  # of unseg/, at most
COMMANDS = ("unseg.cli", "unseg.commands")

# --- where modules stand ---------------------------------------------------------------------------------------------


def place(module: str) -> tuple[int, str] | None:
    """Returns the floor, counted from the top, and the room of a module; None where it has none."""
    floors = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
    parts = module.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    room = next((prefix for prefix in prefixes if prefix in floors), None)
    return None if room is None else (floors[room], room)


def unplaced_modules(sources: Sources) -> list[str]:
    """Returns modules of the packages that belong to no room."""
    return [
        f"{module}: give it a place in FLOORS"
        for module in sources
        if top_of(module) in PACKAGES and module != FACE and place(module) is None
    ]


def shared_names(sources: Sources) -> list[str]:
    """Returns modules of one name in different rooms: a reader who hears the name would have to ask which."""
    homes: dict[str, list[str]] = {}
    for module in sources:
        if top_of(module) in PACKAGES and not is_package(module, sources):
            homes.setdefault(module.rpartition(".")[2], []).append(module)
    return [f"{' and '.join(same)}: one name" for same in homes.values() if len(same) > 1]


def modules_beside_the_rooms(sources: Sources) -> list[str]:
    """Returns the modules that lie in unseg/ itself, where they are too many."""
    beside = [
        module
        for module in sources
        if module.startswith("unseg.") and module.count(".") == 1 and not is_package(module, sources)
    ]
    if len(beside) <= MODULES_BESIDE_THE_ROOMS:
        return []
    return [f"too many modules beside the rooms: {', '.join(beside)}"]


# --- imports ---------------------------------------------------------------------------------------------------------


def upward_imports(sources: Sources) -> list[str]:
    """Returns imports from a higher floor, or from another room of the same floor."""
    complaints = []
    for module in sources:
        own = place(module)
        for name in sorted(imports(module, sources)) if own else []:
            other = place(name)
            if own is None or other is None:
                continue
            if other[0] < own[0]:
                complaints.append(f"{module} imports {name}, which lies above it")
            if other[0] == own[0] and other[1] != own[1] and own[1] not in ENTRIES:
                complaints.append(f"{module} imports {name}, a room beside its own")
    return complaints


def import_cycles(sources: Sources) -> list[str]:
    """Returns every circle of imports, once, as `a → b → a`. The face is in none: it imports when it is asked."""
    graph = {module: sorted(imports(module, sources) & sources.keys() - {module, FACE}) for module in sources}
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
    """Returns imports of utils/, which holds tools that a person runs; a test may import the one that it tests."""
    return [
        f"{module} imports {name}"
        for module in sources
        if top_of(module) != "tests"
        for name in sorted(imports(module, sources))
        if top_of(name) == "utils"
    ]


def torch_at_start(sources: Sources) -> list[str]:
    """Returns how a command imports torch before it runs: as a chain of modules, so that `--help` would be slow."""
    complaints = []
    for module in sources:
        if module.startswith(COMMANDS):
            complaints += [
                f"{' → '.join(chain)}: import it where it is used" for chain in _chains_to_torch(module, sources)
            ]
    return complaints


def _chains_to_torch(module: str, sources: Sources) -> Iterator[list[str]]:
    """Yields the shortest chain of imports at module level that ends with torch, if there is one."""
    chains, seen = [[module]], {module}
    for chain in chains:
        for name in sorted(_imports_at_start(chain[-1], sources)):
            if top_of(name) == "torch":
                yield [*chain, "torch"]
                return
            if name in sources and name not in seen:
                seen.add(name)
                chains.append([*chain, name])


def _imports_at_start(module: str, sources: Sources) -> set[str]:
    """Returns what is imported with a module: not in functions, nor for type checkers; with the packages above."""
    found: set[str] = set()
    for statement in _at_start(tree_of(sources[module])):
        found |= imports(module, sources, only=statement)
    parents = {name.rpartition(".")[0] for name in found}
    return found | (parents & sources.keys())


def _at_start(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom)):
            yield child
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from (part for statement in child.orelse for part in _at_start(statement))
        elif not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from _at_start(child)


# --- what only tests use ---------------------------------------------------------------------------------------------


def names_for_tests_alone(sources: Sources, scripts: str = "") -> list[str]:
    """Returns public functions, classes and methods of the packages that no code outside the tests mentions.

    A mention is the name anywhere outside its own definition: in a module (an import alone is none), in `scripts`, in a
    quoted "module:name", or in any quotes where modules are imported by name. Methods of classes that a library's class
    stands above are left out: the library calls them.
    """
    own = {module: source for module, source in sources.items() if top_of(module) != "tests"}
    mentioned = Counter(re.findall(r"\w+", scripts))
    for source in own.values():
        mentioned.update(_mentions(tree_of(source), quoted="import_module(" in source))
    bases = {name: found for source in own.values() for name, found in _bases(tree_of(source))}
    return [
        f"{module}.{name}: only tests use it; remove it or make it private"
        for module, source in own.items()
        if top_of(module) in PACKAGES and module != FACE
        for name, node in _definitions(tree_of(source), bases)
        if node.name not in CALLED_BY_LIBRARIES and mentioned[node.name] <= Counter(_mentions(node))[node.name]
    ]


Named = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
REGISTERING = ("command", "callback", "register", "get", "post", "setter", "overload")  # decorators that are a use
CALLED_BY_LIBRARIES = ("pin_memory",)  # on objects of any class: torch's loader on a batch
NO_LIBRARY = ("object", "ABC", "Protocol", "Generic", "NamedTuple", "Enum", "str")  # bases that call no method


def _definitions(tree: ast.AST, bases: dict[str, list[str]], within: str = "") -> Iterator[tuple[str, Named]]:
    """Yields public functions and classes of a module, and the methods of its classes, each with its dotted name."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, Named) or node.name.startswith("_") or _is_registered(node):
            continue
        yield within + node.name, node
        if isinstance(node, ast.ClassDef) and not _is_of_a_library(node.name, bases):
            yield from _definitions(node, bases, f"{node.name}.")


def _is_registered(node: Named) -> bool:
    return any(set(re.findall(r"\w+", ast.unparse(part))) & set(REGISTERING) for part in node.decorator_list)


def _bases(tree: ast.AST) -> Iterator[tuple[str, list[str]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.name, [re.findall(r"\w+", ast.unparse(base).partition("[")[0])[-1] for base in node.bases]


def _is_of_a_library(name: str, bases: dict[str, list[str]]) -> bool:
    if name not in bases:
        return name not in NO_LIBRARY
    return any(base != name and _is_of_a_library(base, bases) for base in bases[name])


def _mentions(tree: ast.AST, quoted: bool = False) -> Iterator[str]:
    """Yields the names that a tree mentions. quoted: any text that is a name counts."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias) and node.asname not in (None, node.name):
            yield node.name  # used under another name
        elif isinstance(node, ast.Call) and called(node) == "getattr":
            yield from (part.value for part in node.args[1:2] if isinstance(part, ast.Constant))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            before, _, last = node.value.rpartition(":")
            if last.isidentifier() and (quoted or re.fullmatch(r"[\w.]+", before)):
                yield last


# --- the rules hold --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rule",
    [
        unplaced_modules,
        shared_names,
        modules_beside_the_rooms,
        upward_imports,
        import_cycles,
        imports_of_utils,
        torch_at_start,
    ],
    ids=lambda rule: rule.__name__,
)
def test_code_keeps(rule: Callable[[Sources], list[str]]) -> None:
    assert rule(modules()) == []


def test_nothing_is_there_for_tests_alone() -> None:
    scripts = [text for path, text in texts().items() if Path(path).suffix in (".sh", ".slurm", ".toml", ".yml")]
    assert names_for_tests_alone(modules(), "\n".join(scripts)) == []


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


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("import torch", ["unseg.commands.train → torch: import it where it is used"]),
        ("from torch.nn import functional", ["unseg.commands.train → torch: import it where it is used"]),
        ("try:\n    import torch\nfinally:\n    pass", ["unseg.commands.train → torch: import it where it is used"]),
        (
            "from unseg.method.noise import apply",
            ["unseg.commands.train → unseg.method.noise → torch: import it where it is used"],
        ),
        (
            "from unseg.data.masks import load",
            ["unseg.commands.train → unseg.data → torch: import it where it is used"],
        ),
        ("def run():\n    import torch", []),
        ("if TYPE_CHECKING:\n    import torch", []),
        ("import torchvision_free", []),
    ],
)
def test_torch_before_a_command_runs_is_found(statement: str, told: list[str]) -> None:
    sources = {
        "unseg": "",
        "unseg.commands.train": statement,
        "unseg.method.noise": "import torch",
        "unseg.data": "import torch",
        "unseg.data.masks": "",
    }
    assert torch_at_start(sources) == told


def test_names_for_tests_alone_are_found() -> None:
    masks = """
def load(): return _decode(), Table().rows
def _decode(): ...
def again(): return again()
def quoted(): ...
def scripted(): ...
class Table:
    def rows(self): ...
    def columns(self): ...
class Network(nn.Module):
    def forward(self): ...
class Forgotten: ...
"""
    sources = {
        "unseg.data.masks": masks,
        "unseg.data": "from unseg.data.masks import Forgotten\n__all__ = ['Forgotten']",
        "train": "from unseg.data.masks import load\nload(Network, 'unseg.data.masks:quoted')",
        "tests.test_masks": "from unseg.data.masks import again, Table, Forgotten\nagain(Table().columns, Forgotten)",
    }
    found = names_for_tests_alone(sources, "python -c 'scripted()'")
    assert [line.partition(":")[0] for line in found] == [
        "unseg.data.masks.again",
        "unseg.data.masks.Table.columns",
        "unseg.data.masks.Forgotten",
    ]


def test_names_in_a_table_of_modules_and_other_names_of_imports_count_as_use() -> None:
    sources = {"unseg.data.masks": "def load(): ...", "unseg": ""}
    assert len(names_for_tests_alone(sources)) == 1
    table = "_LAZY = {'load': 'unseg.data.masks'}\n"
    assert len(names_for_tests_alone({**sources, "unseg": table})) == 1
    assert names_for_tests_alone({**sources, "unseg": f"{table}import_module(_LAZY[name])"}) == []
    assert names_for_tests_alone({**sources, "train": "from unseg.data.masks import load as read\nread()"}) == []
