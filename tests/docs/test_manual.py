"""The texts keep their measure, and every link in them leads somewhere."""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

import pytest

from unseg.report.writing import write_report

ROOT = Path(__file__).resolve().parents[2]
MOST_WORDS, MOST_COLUMNS = 900, 4
DIARIES = "docs/research/"
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
TEXTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/**/*.md", "*/README.md", "unseg/*/*.md")
    for path in ROOT.glob(pattern)
    if ".venv" not in path.parts
)


def too_wide(page: str) -> list[str]:
    """Returns the first line of every table of more than four columns."""
    lines = page.splitlines()
    heads = [line for line, below in zip(lines, lines[1:], strict=False) if re.fullmatch(r"\|( ?:?-+:? ?\|)+", below)]
    return [head for head in heads if len(re.findall(r"(?<!\\)\|", head)) - 1 > MOST_COLUMNS]


def broken_links(page: str, source: str, root: Path = ROOT) -> list[str]:
    """Returns the relative links of a page that lead to no file."""
    prose = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    targets = [target for target in LINK.findall(prose) if "://" not in target]
    folder = posixpath.dirname(source)
    return [name for name in targets if not (root / posixpath.normpath(posixpath.join(folder, name))).exists()]


def test_the_readme_can_be_read_in_minutes() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= MOST_WORDS


@pytest.mark.parametrize("source", [name for name in TEXTS if not name.startswith(DIARIES)])
def test_tables_have_few_columns(source: str) -> None:
    assert too_wide((ROOT / source).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("source", TEXTS)
def test_links_lead_somewhere(source: str) -> None:
    assert broken_links((ROOT / source).read_text(encoding="utf-8"), source) == []


def test_every_extra_has_its_row() -> None:
    """But those of people who work on this project."""
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.optional-dependencies]\n")[1]
    extras = set(re.findall(r"^([a-z]+) = \[", declared.split("\n[")[0], re.MULTILINE)) - {"docs", "test"}
    guide = (ROOT / "docs" / "guide" / "protect.md").read_text(encoding="utf-8")
    table = guide.split("| extra | brings |")[1].split("\n\n")[0]
    rows = {
        name for cell in re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE) for name in re.findall("`(.*?)`", cell)
    }
    assert rows == extras and {"sam", "auto", "web"} < extras


def test_the_texts_are_seen() -> None:
    assert {"README.md", "docs/guide/protect.md", "data/README.md", "unseg/weights/LICENSE.md"} <= set(TEXTS)


def test_a_wide_table_and_a_broken_link_are_found(tmp_path: Path) -> None:
    four, five = "| a | b | c | d |\n| --- | --- | :--- | ---: |", "| a | b | c | d | e |\n|---|---|---|---|---|"
    assert too_wide(f"{four}\n\n{five}\n") == ["| a | b | c | d | e |"]
    (tmp_path / "there.md").touch()
    page = "[x](../there.md#a) [y](gone.md) [z](https://example.com/gone)\n```\n[k](code.md)\n```\n"
    assert broken_links(page, "docs/page.md", tmp_path) == ["gone.md"]


# --- results ---------------------------------------------------------------------------------------------------------

RESULTS = sorted((ROOT / "docs" / "results").glob("*.json"))


@pytest.mark.parametrize("results", RESULTS, ids=lambda path: path.stem)
def test_figures_are_those_of_their_json(results: Path, tmp_path: Path) -> None:
    write_report([results], tmp_path / f"{results.stem}.html", charts=True)
    curves, heat_map = (results.with_name(f"{results.stem}-{kind}.svg") for kind in ("curves", "defences"))
    for figure in [curves, heat_map] if heat_map.exists() else [curves]:
        assert figure.read_text(encoding="utf-8") == (tmp_path / figure.name).read_text(encoding="utf-8"), figure.name


def runs_of(results: Path) -> list[dict[str, Any]]:
    return json.loads(results.read_text(encoding="utf-8"))["runs"]


def test_nothing_else_is_kept_of_results() -> None:
    names = {path.name for path in (ROOT / "docs" / "results").iterdir()}
    kept = {f"{results.stem}{end}" for results in RESULTS for end in (".json", "-curves.svg")}
    defended = [
        results.stem for results in RESULTS if any("+" in run["settings"]["condition"] for run in runs_of(results))
    ]
    heat_maps = {f"{stem}-defences.svg" for stem in defended if stem.startswith("as-people-train-")}
    assert len(heat_maps) > 1
    assert len(RESULTS) > 6 and names == {"README.md", *kept, *heat_maps}
