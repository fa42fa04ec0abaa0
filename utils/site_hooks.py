"""Builds the pages of the manual that are not written by hand; `mkdocs build` calls these functions.

- The commands' reference comes from the command line itself, so that no option can be missing or out of date.
- Each page of results comes from the JSON that `unseg evaluate` wrote.
- The README, the changelog, the model card and other texts that live beside the code become pages of the site.

The last step reads the finished site and fails if a page would load anything from another machine.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from unseg.commands.application import COMMANDS, app_of
from unseg.evaluation.results import Spread
from unseg.report import text
from unseg.report.markdown import escaped
from unseg.report.model import Condition, Network, Section
from unseg.report.sections import read_sections

ROOT = Path(__file__).resolve().parents[1]
COMMANDS_HERE = "<!-- commands -->"  # where docs/reference/commands.md gets them
# Texts of the repository → their pages. Links between them, and to and from docs/, are followed in both places.
TEXTS = {
    "README.md": "index.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "data/README.md": "guide/folders.md",
    "weight_dir/README.md": "reference/generators.md",
    "pretrained_checkpoint/README.md": "reference/pretrained.md",
    "unseg/weights/README.md": "explanation/model-card.md",
    "unseg/weights/LICENSE.md": "explanation/licence-of-weights.md",
}
LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")


# --- the hooks that mkdocs calls -------------------------------------------------------------------------------------


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages to those of docs/."""
    pages = {page: (ROOT / source).read_text(encoding="utf-8") for source, page in TEXTS.items()}
    for results in sorted((ROOT / "docs" / "results").glob("*.json")):
        pages[f"results/{results.stem}.md"] = results_page(results)
    for uri, content in pages.items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Returns the page with its links as the site needs them, and with the commands where they belong."""
    if COMMANDS_HERE in markdown:
        markdown = markdown.replace(COMMANDS_HERE, commands_reference(app_of(*COMMANDS)))
    if page.file.src_uri == "index.md":
        page.meta["hide"] = ["navigation"]  # the front page has no other page beside it
    return site_links(markdown, page.file.src_uri)


def on_post_build(config: MkDocsConfig) -> None:
    """Fails if a page of the finished site loads anything from another machine."""
    found = [
        f"{path.relative_to(config.site_dir)} loads {address}"
        for path in sorted(Path(config.site_dir).rglob("*.html"))
        for address in foreign_addresses(path.read_text(encoding="utf-8"))
    ]
    if found:
        raise PluginError("The site must load nothing from other machines:\n" + "\n".join(found))


# --- links -----------------------------------------------------------------------------------------------------------


def site_links(markdown: str, page: str) -> str:
    """Returns the text with links that work on the site. page: its path there.

    A link to a text of TEXTS leads to that text's page. A link to any other file outside docs/ becomes plain words,
    since the site does not hold that file.
    """
    sources = {uri: source for source, uri in TEXTS.items()}
    folder = posixpath.dirname(sources.get(page, f"docs/{page}"))

    def replaced(match: re.Match[str]) -> str:
        target = match["target"]
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        file = posixpath.normpath(posixpath.join(folder, target))
        if file in TEXTS:
            uri = TEXTS[file]
        elif file.startswith("docs/"):
            uri = file.removeprefix("docs/")
        else:
            return match["text"]
        address = posixpath.relpath(uri, posixpath.dirname(page) or ".")
        return f"[{match['text']}]({address}{match['anchor'] or ''})"

    return LINK.sub(replaced, markdown)


class _Loads(HTMLParser):
    """Collects the addresses that a browser fetches to show a page; links that a reader may follow are not among
    them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed"):
            self.addresses.append(given.get("src") or "")
        if tag == "link" and given.get("rel") not in ("canonical", "next", "prev", "edit"):
            self.addresses.append(given.get("href") or "")


def foreign_addresses(html: str) -> list[str]:
    """Returns the addresses on other machines that a browser would fetch to show this page."""
    parser = _Loads()
    parser.feed(html)
    in_styles = re.findall(r"""(?:url\(|@import)\s*["']?([^"')\s]+)""", html)
    return [address for address in (*parser.addresses, *in_styles) if re.match(r"(?:https?:)?//", address)]


# --- the commands ----------------------------------------------------------------------------------------------------


def commands_reference(application: typer.Typer) -> str:
    """Returns every command and option as Markdown."""
    lines: list[str] = []
    group: Any = typer.main.get_command(application)
    for name, command in group.commands.items():
        lines += [f"## unseg {name}", "", *_paragraphs(command.help or ""), ""]
        lines += _options(command.params)
    return "\n".join(lines)


def _paragraphs(help_text: str) -> list[str]:
    """Returns a help text with one line a paragraph: typer breaks lines for terminals."""
    paragraphs = re.split(r"\n\s*\n", help_text.replace("\f", "").strip())
    return [line for paragraph in paragraphs for line in (" ".join(paragraph.split()), "")]


def _options(parameters: Iterable[Any]) -> list[str]:
    """Returns the tables of a command's options, one for each group of its `--help`, arguments first."""
    shown = [parameter for parameter in parameters if not parameter.hidden and parameter.name != "help"]
    shown.sort(key=lambda parameter: parameter.param_type_name != "argument")
    groups: dict[str, list[Any]] = {}
    for parameter in shown:
        kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
        groups.setdefault(parameter.rich_help_panel or kind, []).append(parameter)
    lines = []
    for heading, members in groups.items():
        lines += [f"**{escaped(heading)}**", "", "| option | default | what it does |", "| --- | --- | --- |"]
        lines += [f"| {_names(member)} | {_default(member)} | {_help(member)} |" for member in members]
        lines.append("")
    return lines


def _help(parameter: Any) -> str:
    """Returns a help text on one line, in which only what stands between backticks is markup."""
    parts = re.split(r"(`[^`|]+`)", " ".join((parameter.help or "").split()))
    return "".join(part if part.startswith("`") and part.endswith("`") else _plain(part) for part in parts)


def _plain(words: str) -> str:
    """Returns words that Markdown shows as they are, with the spaces at their ends."""
    stripped = words.strip()
    return words.replace(stripped, escaped(stripped), 1) if stripped else words


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.metavar or parameter.name.upper()}`"
    return ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))


def _default(parameter: Any) -> str:
    """Returns a parameter's default in words; a flag that is off has none to show."""
    value = parameter.default
    if parameter.required:
        return "required"
    if value is None or value is False or value == "" or callable(value):
        return ""
    if isinstance(value, (list, tuple)):
        return f"`{','.join(map(str, value))}`" if value else ""
    return "on" if value is True else f"`{value}`"


# --- the results -----------------------------------------------------------------------------------------------------


def results_page(results: Path) -> str:
    """Returns one comparison's page as Markdown: what was found, a figure, the scores, the images, the settings.

    The heading comes from mkdocs.yml. results: a JSON file that `unseg evaluate` wrote, in docs/results.
    """
    lines: list[str] = []
    for section in read_sections(results):
        lines += _section(section, results)
    lines += [
        f"All figures, also by class: [{results.name}]({results.name}). "
        f"`unseg report docs/results/{results.name}` makes one page of charts and tables from it.",
        "",
    ]
    return "\n".join(lines)


def _section(section: Section, results: Path) -> Iterator[str]:
    unit = text.metric_name(section.metric)
    yield from (f"*{escaped(section.subtitle[:1].upper() + section.subtitle[1:])}.*", "")
    finding = text.finding(section)
    if finding:
        yield from (escaped(finding), "")
    figure = results.with_name(f"{results.stem}-curves.svg")
    if figure.is_file():
        yield from (f"![{escaped(unit)} on clean test images while the networks train]({figure.name})", "")
    yield from ("## Scores", "")
    yield from _table(("network", "trained on", f"final {unit}", "retained learning"), _scores(section))
    yield from (
        f"Retained learning is (final {unit} − trivial) / (clean final {unit} − trivial), each seed against the clean "
        "run of that seed: 0 means that nothing was learned, 1 that protection changed nothing.",
        "",
    )
    images = list(_images(section))
    if images:
        yield from ("## Images", "")
        yield from _table(("trained on", "PSNR (dB)", "SSIM", "largest change, object / elsewhere"), images)
    if section.remarks:
        yield from ("## Remarks", "", *(f"- {escaped(remark)}" for remark in section.remarks), "")
    yield from ("## Settings", "")
    yield from _table(("setting", "value"), ((name, ", ".join(values)) for name, values in section.settings.items()))


def _scores(section: Section) -> Iterator[tuple[str, ...]]:
    for network in section.networks:
        yield network.name, "(trivial answer)", text.number(network.trivial), ""
        for condition in network.conditions:
            final = condition.spread(lambda run: run.final)
            retained = condition.spread(lambda run: run.retained)
            yield network.name, condition.shown, text.with_sd(final), _two_digits(retained)


def _two_digits(value: Spread | None) -> str:
    return text.with_sd(value, 2)


def _images(section: Section) -> Iterator[tuple[str, ...]]:
    """Yields a row for each kind of training image that was changed, once for all networks."""
    told: set[str] = set()
    for condition in _conditions(section.networks):
        psnr = text.mean(condition, lambda run: run.quality.psnr, 1)
        if condition.name not in told and psnr != text.NONE:
            told.add(condition.name)
            yield condition.shown, psnr, text.mean(condition, lambda run: run.quality.ssim), text.bound(condition)


def _conditions(networks: Iterable[Network]) -> Iterator[Condition]:
    return (condition for network in networks for condition in network.conditions)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield _row(head)
    yield _row(("---",) * len(head), plain=True)
    for row in rows:
        yield _row(row)
    yield ""


def _row(cells: tuple[str, ...], plain: bool = False) -> str:
    return f"| {' | '.join(cell if plain or not cell else escaped(cell) for cell in cells)} |"
