"""The pages of the manual that are made from the code and from results, and what the site may not load."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import pytest
import typer

from tests.support.report_results import results, run, write
from tests.support.whole_app import app
from utils import site_hooks

ROOT = Path(__file__).resolve().parents[2]


# --- commands --------------------------------------------------------------------------------------------------------


def toy() -> typer.Typer:
    application = typer.Typer()

    def paint(
        brush: Annotated[str, typer.Option(help="As `dry --brush a_b` has *it*.")],
        picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="What is painted.")],
        colour: Annotated[str, typer.Option("--colour", "-c", help="Its\n  colour | or [tint](x).")] = "red",
        layers: Annotated[int, typer.Option(help="How many.", rich_help_panel="Thickness")] = 3,
        gloss: Annotated[bool, typer.Option("--gloss/--matt", help="Whether it shines.")] = True,
        fast: Annotated[bool, typer.Option("--fast", help="At once.")] = False,
        secret: Annotated[str, typer.Option(hidden=True)] = "x",
    ) -> None:
        """Paint a
        picture.

        It dries by itself.
        """

    application.command("paint")(paint)
    application.command("dry")(lambda: None)
    return application


def test_a_command_and_its_options_are_told_in_groups() -> None:
    page = site_hooks.commands_reference(toy())
    assert page[page.index("## unseg paint") : page.index("## unseg dry")].strip() == "\n".join(
        [
            "## unseg paint",
            "",
            "Paint a picture.",
            "",
            "It dries by itself.",
            "",
            "",
            "**Arguments**",
            "",
            "| option | default | what it does |",
            "| --- | --- | --- |",
            "| `PICTURE` | required | What is painted. |",
            "",
            "**Options**",
            "",
            "| option | default | what it does |",
            "| --- | --- | --- |",
            "| `--brush` | required | As `dry --brush a_b` has \\*it\\*. |",
            "| `--colour`, `-c` | `red` | Its colour \\| or \\[tint\\](x). |",
            "| `--gloss`, `--matt` | on | Whether it shines. |",
            "| `--fast` |  | At once. |",
            "",
            "**Thickness**",
            "",
            "| option | default | what it does |",
            "| --- | --- | --- |",
            "| `--layers` | `3` | How many. |",
        ]
    )


def test_every_command_of_unseg_is_told_with_options_that_everybody_uses() -> None:
    page = site_hooks.commands_reference(app)
    commands = re.findall(r"^## unseg (\w+)$", page, re.MULTILINE)
    assert commands == [
        "protect",
        "merge",
        "verify",
        "web",
        "train",
        "evaluate",
        "bench",
        "datasets",
        "edition",
        "report",
        "info",
    ]
    protect = page[page.index("## unseg protect") : page.index("## unseg merge")]
    assert all(f"`--{name}`" in protect for name in ("out", "masks", "annotations", "epsilon", "dry-run", "processes"))
    assert "\f" not in page and not re.search(r"\|[^|\n]*<(?:class|function)", page)


# --- links -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("index.md", "[a](docs/guide/protect.md)", "[a](guide/protect.md)"),  # the README
        ("index.md", "[a](docs/guide/protect.md#start)", "[a](guide/protect.md#start)"),
        ("index.md", "![a](docs/pictures/x.jpg)", "![a](pictures/x.jpg)"),
        ("index.md", "[a](LICENSE)", "a"),  # the site does not hold it
        ("guide/protect.md", "[a](../../unseg/weights/README.md)", "[a](../explanation/model-card.md)"),
        ("guide/protect.md", "[a](annotations.md)", "[a](annotations.md)"),
        ("explanation/model-card.md", "[a](LICENSE.md)", "[a](licence-of-weights.md)"),  # beside it in the repository
        ("guide/protect.md", "[a](https://example.com/x.md)", "[a](https://example.com/x.md)"),
        ("guide/protect.md", "[a](#start)", "[a](#start)"),
    ],
)
def test_links_of_the_repository_become_links_of_the_site(page: str, link: str, expected: str) -> None:
    assert site_hooks.site_links(f"See {link}.", page) == f"See {expected}."


# --- nothing from elsewhere ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part",
    [
        '<script src="https://cdn.example/x.js"></script>',
        '<link rel="stylesheet" href="//fonts.example/css">',
        '<link rel="preconnect" href="https://fonts.example">',
        '<img src="http://example.com/x.png">',
        "<style>@import 'https://example.com/x.css'</style>",
        "<style>p { background: url(https://example.com/x.png) }</style>",
    ],
)
def test_what_a_browser_would_fetch_is_found(part: str) -> None:
    assert len(site_hooks.foreign_addresses(f"<html>{part}</html>")) == 1


@pytest.mark.parametrize(
    "part", ['<a href="https://example.com">x</a>', '<script src="../x.js"></script>', '<img src="data:image/png;x">']
)
def test_what_a_reader_may_follow_is_not(part: str) -> None:
    assert site_hooks.foreign_addresses(f"<html>{part}</html>") == []


# --- results ---------------------------------------------------------------------------------------------------------


def test_a_page_of_results_has_the_numbers_of_its_json(tmp_path: Path) -> None:
    runs = [run(final=0.8), run(seed=1, final=0.9), run(condition="protected", final=0.425)]
    folder = write(tmp_path / "roads", results(runs))
    file = (folder / "results.json").rename(folder / "roads.json")
    page = site_hooks.results_page(file)
    rows = {tuple(cell.strip() for cell in line.strip("|").split("|")) for line in page.splitlines() if "|" in line}
    scores = {row[1:]: row[0] for row in rows if len(row) == 4}
    assert ("clean", "0.850 ± 0.071", "1.00 ± 0.00") in scores
    assert ("protected", "0.425", "0.25") in scores  # (0.425 − 0.3) / (0.8 − 0.3): seed 0 against seed 0
    assert "(roads.json)" in page and ".svg" not in page  # no figure beside it
    file.with_name("roads-curves.svg").touch()
    assert "](roads-curves.svg)" in site_hooks.results_page(file)
