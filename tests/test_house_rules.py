"""The rules of the house on sizes, errors, settings and words. The layers are in test_architecture.py.

Every rule is a function from sources to a list of complaints, so that each can be shown to fail on a bad snippet.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated

import pytest
import typer

from tests.support.project_sources import PACKAGES, Sources, called, modules, texts, top_of, tree_of
from tests.support.whole_app import app

MODULE_LINES, FUNCTION_LINES = 400, 60
MEASURED = (*PACKAGES, "benchmarks", "utils", "generate", "eval", "train")
OPTIONS_OUTSIDE_GROUPS = 12  # of a command, at most

# --- sizes -----------------------------------------------------------------------------------------------------------


def long_modules(sources: Sources) -> list[str]:
    """Returns modules that are too long to be read at once."""
    lengths = {module: len(source.splitlines()) for module, source in sources.items() if top_of(module) in MEASURED}
    return [
        f"{module}: {length} lines, at most {MODULE_LINES}"
        for module, length in lengths.items()
        if length > MODULE_LINES
    ]


def long_functions(sources: Sources) -> list[str]:
    """Returns functions that are too long, signature and docstring counted, decorators not."""
    complaints = []
    for module, source in sources.items():
        for node in ast.walk(tree_of(source)) if top_of(module) in MEASURED else ():
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES:
                    complaints.append(f"{module}:{node.lineno}: {node.name}: {length} lines, at most {FUNCTION_LINES}")
    return complaints


# --- what is silenced ------------------------------------------------------------------------------------------------

NOQA = re.compile(r"#\s*noqa\b(?P<codes>\s*:\s*[A-Z]+\d+(?:[\s,]+[A-Z]+\d+)*)?(?P<reason>.*)", re.IGNORECASE)
TYPE_IGNORE = re.compile(r"#\s*type:\s*ignore\b(?P<codes>\[[\w\s,-]+\])?(?P<reason>.*)", re.IGNORECASE)


def blanket_ignores(sources: Sources) -> list[str]:
    """Returns `noqa` and `type: ignore` comments without the code of what they silence or without a reason after it."""
    complaints = []
    for module, source in sources.items():
        for line, comment in _comments(source):
            for found in filter(None, (NOQA.search(comment), TYPE_IGNORE.search(comment))):
                lacking = [] if found["codes"] else ["a code"]
                lacking += [] if re.search(r"[a-z]{2}", found["reason"]) else ["a reason"]
                if lacking:
                    complaints.append(f"{module}:{line}: {comment}: give {' and '.join(lacking)}")
    return complaints


def _comments(source: str) -> Iterator[tuple[int, str]]:
    if not NOQA.search(source) and not TYPE_IGNORE.search(source):
        return  # splitting a file into tokens takes long
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


# --- errors and threads ----------------------------------------------------------------------------------------------


def broad_excepts(sources: Sources) -> list[str]:
    """Returns `except:`, `except Exception` and `except BaseException`, alone or in a tuple, and in suppress()."""
    return [
        f"{module}:{line}: {name}"
        for module, source in sources.items()
        for line, name in _caught(tree_of(source))
        if name.split(".")[-1] in ("a bare except", "Exception", "BaseException")
    ]


def _caught(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            yield node.lineno, "a bare except"
        elif isinstance(node, ast.ExceptHandler):
            for part in node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]:
                yield node.lineno, ast.unparse(part)
        elif isinstance(node, ast.Call) and called(node) == "suppress":
            for argument in node.args:
                yield node.lineno, ast.unparse(argument)


def other_pools(sources: Sources) -> list[str]:
    """Returns pools that `worker_threads` of unseg.compute did not make: in their threads torch takes every core."""
    return [
        f"{module}:{node.lineno}: make it with worker_threads of unseg.compute"
        for module, source in sources.items()
        if top_of(module) in PACKAGES and not (module.startswith("unseg.compute.") and "def worker_threads" in source)
        for node in ast.walk(tree_of(source))
        if isinstance(node, ast.Call) and called(node) == "ThreadPoolExecutor"
    ]


def unguarded_reads(sources: Sources) -> list[str]:
    """Returns reads of files that `open_for_reading` of unseg.storage.files did not open: a pipe would hold them up.

    A package's own files (importlib.resources) are no user's.
    """
    return [
        f"{module}:{node.lineno}: {called(node)}: read it with unseg.storage.files"
        for module, source in sources.items()
        if top_of(module) in PACKAGES and module != "unseg.storage.files" and "import resources" not in source
        for node in ast.walk(tree_of(source))
        if isinstance(node, ast.Call) and _reads(node)
    ]


def _reads(call: ast.Call) -> bool:
    if isinstance(call.func, ast.Attribute):
        return called(call) in ("read_text", "read_bytes") and not call.args
    modes = [*call.args[1:2], *(word.value for word in call.keywords if word.arg == "mode")]
    mode = ast.literal_eval(modes[0]) if modes and isinstance(modes[0], ast.Constant) else "r"
    return called(call) == "open" and not set(mode) & set("wax")


READING = re.compile(
    r"open|(open|read|list|walk)_\w+|load_file|walk|read_text|read_bytes|is_file|is_dir|exists|iterdir|glob|rglob|stat|mkdir"
    r"|write_text|write_bytes|safe_open"
)


def constructors_that_touch_the_disk(sources: Sources) -> list[str]:
    """Returns what `__init__` and `__post_init__` call that reads or writes files: opening is a function of its own."""
    return [
        f"{module}:{call.lineno}: {owner.name}.{function.name} calls {called(call)}"
        for module, source in sources.items()
        if top_of(module) in PACKAGES
        for owner in ast.walk(tree_of(source))
        if isinstance(owner, ast.ClassDef)
        for function in owner.body
        if isinstance(function, ast.FunctionDef) and function.name in ("__init__", "__post_init__")
        for call in ast.walk(function)
        if isinstance(call, ast.Call) and READING.fullmatch(called(call))
    ]


# --- configuration ---------------------------------------------------------------------------------------------------


def unread_settings(sources: Sources, config: str = "unseg.method.config") -> list[str]:
    """Returns fields of the configuration's dataclasses that no code outside the tests reads."""
    trees = [tree_of(source) for module, source in sources.items() if top_of(module) != "tests"]
    read = set().union(*(_attributes_read(tree) for tree in trees))
    return [
        f"{config}.{node.name}.{statement.target.id} is never read"
        for node in ast.walk(tree_of(sources[config]))
        if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(part) for part in node.decorator_list)
        for statement in node.body
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
        if statement.target.id not in read
    ]


def _attributes_read(tree: ast.AST) -> set[str]:
    """Returns names x that some `….x` reads, except in __post_init__: checking a setting is not using it."""
    if isinstance(tree, ast.FunctionDef) and tree.name == "__post_init__":
        return set()
    names = {tree.attr} if isinstance(tree, ast.Attribute) and isinstance(tree.ctx, ast.Load) else set()
    return names.union(*(_attributes_read(child) for child in ast.iter_child_nodes(tree)))


def crowded_commands(application: typer.Typer) -> list[str]:
    """Returns commands whose --help lists too many options outside a named group."""
    commands: Mapping[str, object] = typer.main.get_command(application).commands
    complaints = []
    for name, command in commands.items():
        options = [option for option in command.params if option.param_type_name == "option" and not option.hidden]
        loose = [option.name for option in options if option.rich_help_panel is None]
        if len(loose) > OPTIONS_OUTSIDE_GROUPS:
            complaints.append(f"{name}: {len(loose)} options without rich_help_panel: {', '.join(loose)}")
    return complaints


# --- text ------------------------------------------------------------------------------------------------------------

MACHINE_PATH = re.compile(
    r"(?<![\w.~:/*$}-])/(?:root|home|Users|work|workspace|mnt|media|scratch|opt|tmp|srv)/[\w.-]|\b[A-Z]:\\{1,2}\w"
)
PACKAGE_INDEX = re.compile(
    r"pypi\.org|pythonhosted\.org|download\.pytorch\.org|anaconda\.org|registry\.npmjs|index[-_]url|find[-_]links",
    re.IGNORECASE,
)


def matches(contents: Sources, pattern: re.Pattern[str]) -> list[str]:
    """Returns every line that a pattern is found in."""
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
        long_modules,
        long_functions,
        blanket_ignores,
        broad_excepts,
        other_pools,
        unguarded_reads,
        constructors_that_touch_the_disk,
        unread_settings,
    ],
    ids=lambda rule: rule.__name__,
)
def test_code_keeps(rule: Callable[[Sources], list[str]]) -> None:
    assert rule(modules()) == []


def test_commands_list_their_options_in_groups() -> None:
    assert crowded_commands(app) == []


@pytest.mark.parametrize("pattern", [MACHINE_PATH, PACKAGE_INDEX], ids=["no machine path", "no package index"])
def test_files_have(pattern: re.Pattern[str]) -> None:
    assert matches(texts(), pattern) == []


# --- and each rule can fail ------------------------------------------------------------------------------------------


def test_a_long_module_is_found() -> None:
    sources = {name: "x = 1\n" * lines for name, lines in (("unseg.a", 401), ("unseg.b", 400), ("tests.c", 500))}
    assert long_modules(sources) == ["unseg.a: 401 lines, at most 400"]


def test_a_long_function_is_found() -> None:
    def source(lines: int) -> str:
        return "class Owner:\n    @property\n    def f(self):\n" + "        pass\n" * (lines - 1)

    sources = {"utils.a": source(61), "benchmarks.b": source(60), "tests.c": source(80)}
    assert long_functions(sources) == ["utils.a:3: f: 61 lines, at most 60"]


# The comments are put together here, so that this file keeps the rule itself.
@pytest.mark.parametrize(
    ("comment", "lacking"),
    [
        ("noqa", "a code and a reason"),
        ("noqa: E402", "a reason"),
        ("noqa: E402, F401", "a reason"),
        ("noqa because it is late", "a code"),
        ("type: ignore", "a code and a reason"),
        ("type: ignore[arg-type]", "a reason"),
        ("type: ignore  # numpy says float", "a code"),
        ("noqa: E402  # sys.path comes first", None),
        ("type: ignore[attr-defined]  # typer ships no types of it", None),
        ("nothing to hide", None),
    ],
)
def test_a_blanket_ignore_is_found(comment: str, lacking: str | None) -> None:
    found = blanket_ignores({"unseg.a": f"text = '# noqa'\nx = 1  # {comment}\n"})
    assert found == ([] if lacking is None else [f"unseg.a:2: # {comment}: give {lacking}"])


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


def test_pool_of_unlimited_threads_is_found() -> None:
    source = "def f(pool: ThreadPoolExecutor):\n    return futures.ThreadPoolExecutor(4)"
    maker = f"def worker_threads():\n    ...\n{source}"
    sources = {"unseg.data.a": source, "unseg.compute.b": maker, "unseg.data.c": maker, "tests.test_x": source}
    told = "make it with worker_threads of unseg.compute"
    assert other_pools(sources) == [f"unseg.data.a:2: {told}", f"unseg.data.c:4: {told}"]


def test_an_unguarded_read_is_found() -> None:
    source = (
        "a = open(path)\nb = open(path, 'rb')\nc = open(path, mode='r+')\nd = path.read_text(encoding='utf-8')\n"
        "e = Path(name).read_bytes()\nf = open(path, 'xb')\ng = open(path, mode='a')\nh = files.read_text(path)\n"
        "i = Yolo.open(path)\nj = Pillow.open(file)\n"
    )
    sources = {"unseg.data.a": source, "unseg.b": f"from importlib import resources\n{source}", "tests.c": source}
    assert [complaint.split(":")[1] for complaint in unguarded_reads(sources)] == ["1", "2", "3", "4", "5"]


def test_a_constructor_that_reads_is_found() -> None:
    source = (
        "class Reader:\n    def __init__(self, path):\n        self.text, self.there = open(path), path.is_file()\n"
        "        self.names, self.opened = dict(path), []\n"
        "    @classmethod\n    def open(cls, path):\n        return cls(path.read_text())\n"
    )
    found = constructors_that_touch_the_disk({"unseg.data.reader": source, "tests.test_x": source})
    assert found == [
        "unseg.data.reader:3: Reader.__init__ calls open",
        "unseg.data.reader:3: Reader.__init__ calls is_file",
    ]


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


def test_a_crowded_command_is_found() -> None:
    def application(loose: int) -> typer.Typer:
        def command(**values: int) -> None: ...

        options = {f"option_{number}": typer.Option(help="x") for number in range(loose)}
        options["grouped"] = typer.Option(help="x", rich_help_panel="Output")
        options["secret"] = typer.Option(help="x", hidden=True)
        command.__signature__ = inspect.Signature(
            [
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=1, annotation=Annotated[int, option])
                for name, option in options.items()
            ]
        )
        made = typer.Typer()
        made.command("crowd")(command)
        made.command("other")(lambda: None)
        return made

    assert crowded_commands(application(12)) == []
    assert crowded_commands(application(13))[0].startswith("crowd: 13 options without rich_help_panel: option_0, ")


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
        "/".join(["~", "work", "photos"]),
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
