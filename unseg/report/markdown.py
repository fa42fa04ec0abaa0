"""The tables of a report as Markdown, with what a reader must know beside them. A pure function of results.json."""

from __future__ import annotations

import re
from collections.abc import Sequence

from unseg.report import text
from unseg.report.model import Section
from unseg.storage.files import printable

MARK = "<!-- unseg report -->"  # the first line: by it the command knows its own files


def markdown(
    sections: Sequence[Section], pictures: Sequence[Sequence[tuple[str, str]]] = (), title: str = text.TITLE
) -> str:
    """Returns the document. pictures: for each section, captions and file names of the charts beside it."""
    lines = [
        MARK,
        f"# {escaped(title)}",
        "",
        "Networks are trained with true labels on one kind of training image and tested on clean images.",
        "",
    ]
    for i, section in enumerate(sections):
        lines += _section(section, pictures[i] if pictures else ())
    return "\n".join(lines)


def _section(section: Section, pictures: Sequence[tuple[str, str]]) -> list[str]:
    columns = text.columns(section)
    lines = [
        f"## {escaped(text.heading(section))}",
        "",
        escaped(section.subtitle[:1].upper() + section.subtitle[1:] + "."),
        "",
    ]
    if found := text.finding(section):
        lines += [escaped(found), ""]
    head = ["network", "trained on", *(column.title for column in columns)]
    rows = []
    for network in section.networks:
        rows.append([network.name, "(trivial answer)", text.number(network.trivial), *[""] * (len(columns) - 1)])
        rows += [
            [network.name, condition.shown, *(column.cell(condition) for column in columns)]
            for condition in network.conditions
        ]
    lines += _table(head, rows)
    notes = [note[:1].upper() + note[1:] for note in (text.table_note(section), text.not_measured(section)) if note]
    lines += [*(f"- {escaped(note)}" for note in (*notes, *section.remarks)), ""]  # remarks may begin with a name
    for caption, file in pictures:
        lines += [f"![{escaped(caption)}]({file})", ""]
    lines += ["<details><summary>Settings, data and machine</summary>", ""]
    settings = [
        *section.settings.items(),
        *((f"images: {name}", [how]) for name, how in section.made.items()),
        ("results.json", [f"{section.source}, sha256 {section.sha256}"]),
    ]
    lines += [*(f"- {escaped(name)}: {escaped(', '.join(values))}" for name, values in settings), "", "</details>", ""]
    return lines


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(map(escaped, cells))} |"

    return [line(head), f"| --- | --- |{' ---: |' * (len(head) - 2)}", *map(line, rows), ""]


# What Markdown, also GitHub's, would take for markup: emphasis at the edge of a word, code, links, formulas, tables,
# HTML.
MARKUP = re.compile(r"[\\`*\[\]|~$<>&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<=:)/(?=/)|(?<=www)\.", re.IGNORECASE)
LINE_START = re.compile(r"(\d{0,9})[-+#=.)]+(?:\s|$)")  # a list, a heading, a line under one
HTML = {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


def escaped(words: str) -> str:
    """Returns text that Markdown shows as it is: no markup, no HTML, no link, no second line."""
    words = MARKUP.sub(lambda match: HTML.get(match[0], f"\\{match[0]}"), printable(words).strip() or text.NONE)
    start = LINE_START.match(words)
    return f"{start[1]}\\{words[start.end(1) :]}" if start else words
