"""One HTML page, complete in itself: style sheet, charts and pictures inside, no script, nothing fetched.

A pure function of results.json and the pictures that it names: the same input gives the same bytes.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from xml.etree.ElementTree import Element

from unseg.evaluation.condition_names import shown_name
from unseg.report import figures, text
from unseg.report.album import Album, Shown
from unseg.report.charts import Style, swatch
from unseg.report.figures import Figure, style_of
from unseg.report.markup import Child, add, el, html_page, raw
from unseg.report.model import Change, Condition, Example, Network, Run, Section
from unseg.storage.panels import NOISE_GAIN

GENERATOR = "unseg report"  # in the page's head: by it the command knows its own pages
SHOWN_EXAMPLES = 2  # the others are folded
LEDE = (
    "Networks are trained with true labels on one kind of training image at a time, with the same schedule, first "
    "weights and views, and tested on clean images. A protection works if training on protected images ends near the "
    "trivial answer."
)
# Nothing may be fetched or run, whatever else stands in the page.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Page:
    """A document, and a line for each picture that is missing from it."""

    html: str
    problems: list[str]


def page(sections: Sequence[Section], title: str = text.TITLE) -> Page:
    """Returns the document on these sections, with a table of contents if there are several."""
    counters, album = (_Counter("Figure"), _Counter("Table")), Album()
    main = el("main", el("header", el("h1", title), el("p", LEDE, class_="lede")))
    if len(sections) > 1:
        links = [el("li", el("a", text.heading(section), href=f"#s{i}")) for i, section in enumerate(sections, 1)]
        add(main, el("nav", el("ul", links), aria_label="Contents"))
    for i, section in enumerate(sections, 1):
        add(main, _section(section, f"s{i}", counters, album))
    sources = dict.fromkeys(f"{section.source} (sha256 {section.sha256[:16]}…)" for section in sections)
    add(main, el("footer", el("p", "Made by ", el("code", GENERATOR), " from ", _listed(sources), ".")))
    return Page(html_page(el("html", _head(title), el("body", main), lang="en")), album.problems)


def _head(title: str) -> Element:
    folder = resources.files("unseg.report")
    style = "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in ("palette.css", "page.css"))
    return el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="generator", content=GENERATOR),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("title", title),
        raw("style", style),
    )


def _section(section: Section, anchor: str, counters: tuple[_Counter, _Counter], album: Album) -> Element:
    figure, table = counters
    unit = text.metric_name(section.metric)
    styles = style_of(section)
    part = el(
        "section",
        el("h2", text.heading(section), id=f"{anchor}-title"),
        el("p", section.subtitle, class_="meta"),
        id=anchor,
        aria_labelledby=f"{anchor}-title",
    )
    found = text.finding(section)
    if found:
        add(part, el("p", found, class_="finding"))
    add(part, _tiles(section, unit, styles))
    for each in figures.figures(section, unit, styles):
        add(part, el("h3", each.heading), _figure(each, figure))
    add(part, el("h3", "Results"), _results(section, styles, table))
    examples = _examples(section, figure, album)
    if examples is not None:
        add(part, el("h3", "Predictions on clean test images"), examples)
    changes = _changes(section, figure, album)
    if changes is not None:
        add(part, el("h3", "Training images"), changes)
    add(part, el("h3", "Details"), _by_class(section, table), _all_metrics(section, table), _settings(section))
    if section.remarks:
        add(part, el("h3", "Remarks"), el("ul", [el("li", remark) for remark in section.remarks], class_="remarks"))
    return part


# --- figures ---------------------------------------------------------------------------------------------------------


class _Counter:
    """Numbers the figures, or the tables, of the whole page."""

    def __init__(self, word: str) -> None:
        self.word, self.count = word, 0

    def caption(self, what: str) -> Element:
        self.count += 1
        return el("p", el("strong", f"{self.word} {self.count}. "), what, class_="caption")


def _tiles(section: Section, unit: str, styles: dict[str, Style]) -> Element:
    """Returns the means over networks, for a first look."""
    final, retained = (
        text.common_means(section, lambda run: run.final),
        text.common_means(section, lambda run: run.retained),
    )
    tiles = []
    for name, mean in final.items():
        below = f"final {unit}"
        if name != "clean" and name in retained:
            below = f"retained learning {text.number(retained[name], 2)}"
        tiles.append((shown_name(name), mean, below, styles[name].colour))
    tiles.append((figures.TRIVIAL, statistics.fmean(network.trivial for network in section.networks), unit, ""))
    return el(
        "dl",
        [
            el("div", el("dt", title), el("dd", text.number(value)), el("dd", what), class_=f"tile {colour}".strip())
            for title, value, what, colour in tiles
        ],
        class_="tiles",
    )


def _figure(figure: Figure, counter: _Counter) -> Element:
    """Returns small charts, one for each network, as many side by side as there is room for."""
    keys = [el("li", swatch(style), name) for name, style in figure.legend.items()]
    charts = [el("figure", el("p", name, class_="panel-title"), chart) for name, chart in figure.panels]
    return el(
        "div",
        el("ul", keys, class_="legend") if keys else None,
        el("div", charts, class_="charts"),
        counter.caption(figure.caption),
    )


# --- tables ----------------------------------------------------------------------------------------------------------


Rows = Iterable[tuple[Child, Sequence[str]]]  # head and cells


def _table(caption: Element, head: Sequence[str], groups: Iterable[tuple[str | None, Rows]]) -> Element:
    """Returns a table in a box of its own that scrolls if it is wider than the page.

    groups: names, as rows, with their rows.
    """
    bodies = []
    for name, rows in groups:
        body = el("tbody", el("tr", el("th", name, scope="rowgroup", colspan=len(head))) if name else None)
        add(body, [el("tr", el("th", first, scope="row"), [el("td", cell) for cell in cells]) for first, cells in rows])
        bodies.append(body)
    table = el("table", el("thead", el("tr", [el("th", title, scope="col") for title in head])), bodies)
    title = "".join(caption.itertext())
    return el("div", el("div", table, class_="scroll", tabindex=0, role="region", aria_label=title), caption)


def _keyed(name: str, style: Style) -> list[Child]:
    """Returns a condition's name behind a patch of its colour."""
    return [el("span", class_=f"key {style.colour}{' dashed' if style.dashed else ''}", aria_hidden="true"), name]


def _results(section: Section, styles: dict[str, Style], table: _Counter) -> Element:
    columns = text.columns(section)
    groups = [
        (
            f"{network.name} (trivial answer {text.number(network.trivial)})",
            [
                (_keyed(condition.shown, styles[condition.name]), [column.cell(condition) for column in columns])
                for condition in network.conditions
            ],
        )
        for network in section.networks
    ]
    about = f"Networks trained on each kind of image, tested on clean images; {text.table_note(section)}"
    caption = " ".join(filter(None, (about, text.not_measured(section))))
    return _table(table.caption(caption), ["trained on", *(column.title for column in columns)], groups)


def _by_class(section: Section, table: _Counter) -> list[Element]:
    """Returns for each metric by class, folded, a table for each network: classes in rows, conditions in columns."""
    parts = []
    for metric in dict.fromkeys(name for run in section.runs() for name in run.by_class):
        tables = [_classes(network, metric, table) for network in section.networks]
        parts.append(el("details", el("summary", text.metric_name(metric)), tables))
    return parts


def _classes(network: Network, metric: str, table: _Counter) -> Element | None:
    """Returns one network's table of a metric by class; None if the network has no class."""
    conditions = [c for c in network.main() if any(metric in run.by_class for run in c.runs)]
    told = [run.by_class.get(metric, {}) for condition in conditions for run in condition.runs]
    digits = 0 if all(map(text.is_count, told)) else 3

    def row(name: str) -> tuple[str, list[str]]:
        spreads = [c.spread(lambda run: run.by_class.get(metric, {}).get(name)) for c in conditions]
        return name, [text.with_sd(each, digits) for each in spreads]

    rows = [row(name) for name in dict.fromkeys(name for classes in told for name in classes)]
    if not rows:
        return None
    caption = table.caption(f"{network.name}: {text.metric_name(metric)}, clean test images, after the last step.")
    return _table(caption, [text.grouping(metric), *(c.shown for c in conditions)], [(None, rows)])


def _all_metrics(section: Section, table: _Counter) -> Element | None:
    """Returns every metric that is one number, folded; None if there is only the section's own."""
    names = [
        name for name in dict.fromkeys(name for run in section.runs() for name in run.numbers) if name != section.metric
    ]
    if not names:
        return None

    def row(condition: Condition) -> tuple[str, list[str]]:
        return condition.shown, [text.with_sd(condition.spread(_metric(name))) for name in names]

    groups = [(network.name, [row(condition) for condition in network.conditions]) for network in section.networks]
    caption = table.caption("All metrics after the last step, on clean test images.")
    return el(
        "details", el("summary", "Every metric"), _table(caption, ["trained on", *map(text.metric_name, names)], groups)
    )


def _metric(name: str) -> Callable[[Run], float | None]:
    return lambda run: run.numbers.get(name)


def _settings(section: Section) -> Element:
    facts = [
        *((name, _listed(values)) for name, values in section.settings.items()),
        *((f"images: {name}", how) for name, how in section.made.items()),
    ]
    return el(
        "details",
        el("summary", "Settings, data and machine"),
        el("dl", [(el("dt", name), el("dd", value)) for name, value in facts], class_="facts"),
    )


def _listed(values: Iterable[str]) -> str:
    return ", ".join(values)


# --- pictures --------------------------------------------------------------------------------------------------------


def _examples(section: Section, figure: _Counter, album: Album) -> Element | None:
    """Returns clean test images with their truth, and below them each network's predictions after each kind of
    training.
    """
    told: dict[str, list[tuple[Network, list[tuple[Condition, Example]]]]] = {}
    for network in section.networks:
        first = [(condition, example) for condition in network.main() for example in condition.runs[0].examples]
        for name in dict.fromkeys(example.name for _, example in first):
            told.setdefault(name, []).append((network, [pair for pair in first if pair[1].name == name]))
    if not told:
        return None
    rows = [_example(name, networks, album) for name, networks in told.items()]
    more = rows[SHOWN_EXAMPLES:]
    seed = next(run.seed for run in section.runs() if run.examples)
    folded = el("details", el("summary", f"{len(more)} more"), more) if more else None
    return el(
        "div",
        rows[:SHOWN_EXAMPLES],
        folded,
        figure.caption(
            "Clean test images, their truth, and the predictions of networks trained on each kind of image "
            f"(seed {seed})."
        ),
    )


def _example(name: str, networks: Sequence[tuple[Network, list[tuple[Condition, Example]]]], album: Album) -> Element:
    example = networks[0][1][0][1]
    rows = [_pictures(name, [album.photograph(example.image, name), album.masks(example.truth, "truth")])]
    for network, told in networks:
        predictions = [album.masks(each.prediction, f"trained on {condition.shown}") for condition, each in told]
        rows += [el("p", network.name, class_="panel-title"), _pictures(f"{name}, {network.name}", predictions)]
    return el("div", rows, class_="example")


def _changes(section: Section, figure: _Counter, album: Album) -> Element | None:
    """Returns before, after and noise of each condition's training images, once for all networks."""
    found: dict[tuple[str, str], Change] = {}
    for network in section.networks:
        for condition in network.main():
            for change in (change for run in condition.runs for change in run.changes):
                found.setdefault((condition.shown, change.name), change)
    if not found:
        return None
    rows = []
    for (who, name), change in found.items():
        captions = f"{name}, clean", who, f"{who}, noise × {NOISE_GAIN}"
        rows.append(_pictures(name, album.before_after_noise(change, captions), "pictures three"))
    return el(
        "div",
        rows,
        figure.caption(f"Training images before and after, and the difference × {NOISE_GAIN} (grey: no change)."),
    )


def _pictures(of: str, pictures: Sequence[Shown], class_: str = "pictures") -> Element:
    """Returns pictures side by side, as many as there is room for. of: the image that all are about."""
    return el("div", [_picture(picture, of) for picture in pictures], class_=class_)


def _picture(picture: Shown, of: str) -> Element:
    if picture.uri is None:
        return el("figure", el("div", picture.problem, class_="missing"), el("figcaption", picture.caption))
    said = picture.caption if of in picture.caption else f"{of}: {picture.caption}"
    image = el("img", src=picture.uri, alt=said, width=picture.width, height=picture.height)
    return el("figure", image, el("figcaption", picture.caption), class_="masks" if picture.masks else None)
