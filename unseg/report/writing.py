"""The files of a report: the page, the Markdown beside it and, if asked for, its charts as SVG."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from filelock import has_fcntl, lock_descriptor

from unseg.errors import UserError
from unseg.report import text
from unseg.report.charts import sheet
from unseg.report.figures import figures, style_of
from unseg.report.markdown import MARK, markdown
from unseg.report.markup import svg_file
from unseg.report.model import Section
from unseg.report.page import GENERATOR, page
from unseg.report.sections import read_sections, results_file
from unseg.storage.files import open_for_reading, remove_temporaries, write_durably
from unseg.storage.locks import holder_of

SUFFIXES = (".html", ".htm")
OURS = (MARK.encode(), f'<meta name="generator" content="{GENERATOR}">'.encode())
HEAD = 4096  # bytes at a file's start among which its mark is


@dataclass(frozen=True)
class Written:
    """The files that were written, the page first, and a line for each picture that the page lacks."""

    paths: list[Path]
    problems: list[str]


def write_report(
    runs: Sequence[Path], out: Path | None = None, charts: bool = False, title: str = text.TITLE
) -> Written:
    """Writes the report of these folders with a results.json, or of such files.

    out: the page; by default report.html in the first folder. charts: whether to write each figure as SVG too. title:
    the page's heading. The same files give the same bytes. Raises a UserError and writes nothing if a file cannot be
    read, or if something that is no report stands where one would be written.
    """
    out = out or (runs[0] if runs[0].is_dir() else runs[0].parent) / "report.html"
    if out.suffix.lower() not in SUFFIXES:
        raise UserError(f"--out {out}: give a name that ends in .html")
    different: dict[str, Path] = {}
    for run in runs:
        different.setdefault(os.path.realpath(results_file(run)), run)
    sections = [section for run in different.values() for section in read_sections(run)]
    if not sections:
        raise UserError(f"{runs[0]}: holds no run yet; let unseg evaluate finish one")
    made = page(sections, title)
    pictures, names = _charts(sections, out.stem) if charts else ({}, [])
    contents = {
        out: made.html,
        out.with_suffix(".md"): markdown(sections, names, title),
        **{out.with_name(name): content for name, content in pictures.items()},
    }
    with _alone_in(out.parent):
        for path in contents:
            _check_free(path)
        for path, content in contents.items():
            write_durably(path, content.encode())
    return Written(list(contents), made.problems)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Makes the folder and waits until no other report is being written there; removes what killed ones left.

    What an evaluation is writing there is left alone. UserError where the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY) if has_fcntl else None  # Windows opens no folders
    except FileExistsError:
        raise UserError(f"--out {folder}: is no folder; give another one") from None
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be written: {error.strerror or error}") from None
    try:
        if descriptor is not None:
            with suppress(OSError):  # a disk without locks
                lock_descriptor(descriptor, blocking=True)
        if holder_of(folder) is None:
            with suppress(OSError):  # a read-only folder, as the first file will tell
                remove_temporaries(folder, below=False)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _charts(sections: Sequence[Section], stem: str) -> tuple[dict[str, str], list[list[tuple[str, str]]]]:
    """Returns file name → SVG, and for each section the captions and names of its own."""
    style = resources.files("unseg.report").joinpath("palette.css").read_text(encoding="utf-8")
    files: dict[str, str] = {}
    names: list[list[tuple[str, str]]] = []
    for i, section in enumerate(sections, 1):
        names.append([])
        for figure in figures(section, text.metric_name(section.metric), style_of(section)):
            name = f"{stem}-{figure.kind}.svg" if len(sections) == 1 else f"{stem}-{i}-{figure.kind}.svg"
            files[name] = f"{MARK}\n{svg_file(sheet(figure.panels, figure.legend, style))}\n"
            names[-1].append((figure.caption, name))
    return files, names


def _check_free(path: Path) -> None:
    """Raises a UserError if there is something at `path` that is no report."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name another file with --out")
    try:
        with open_for_reading(path) as file:
            start = file.read(HEAD)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; name another file with --out") from None
    if not any(mark in start for mark in OURS):
        raise UserError(
            f"{path}: exists already and is no report of unseg; move it away, or name another file with --out"
        )
