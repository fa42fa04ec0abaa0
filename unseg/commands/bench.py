"""unseg bench: the whole matrix of sets, noises, defences, victims and seeds, in one resumable command."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from unseg.commands.bench_detect import BEGINS_AGAIN, DetectOptions, detect
from unseg.commands.bench_options import (
    CrossedOptions,
    NoiseOptions,
    RunningOptions,
    TrainingOptions,
    bench_of,
    check_options,
)
from unseg.commands.config_file import ConfigFile
from unseg.commands.console import Terminal, printable, to_go_on_later
from unseg.commands.evaluate_parsing import parse_seeds
from unseg.commands.option_groups import first_given, grouped
from unseg.compute.threads import check_threads
from unseg.errors import UserError

if TYPE_CHECKING:  # torch is imported only when the command runs, so that --help is fast
    from unseg.evaluation.matrix import Bench, Cell
    from unseg.report.heat_map import Grid

MINUTE, HOUR = 60.0, 3600.0


@grouped
def bench(
    crossed: CrossedOptions,
    noises: NoiseOptions,
    training: TrainingOptions,
    running: RunningOptions,
    detecting: DetectOptions,
    data_root: Annotated[
        Path | None, typer.Option(help="Folder that holds the sets, such as carparts, camvid and ccp.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the results: OUT/SET/results.json, or OUT/detect.json.")
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Measure every noise under every defence with every network on every set.

    The first results are those that a table needs first: clean images and each noise without a defence, then the other
    defences, networks and seeds. After any stop the same command goes on from the last checkpoint; more sets, noises or
    defences can be added later. Noised images are made once and kept in OUT/SET/images. Exit codes: 0 all is measured,
    or the limit is reached; 2 it could not start or go on; 130 Ctrl-C; 143 terminated.

    With --detect DIR it measures instead, in minutes, whether a trainer's network would find the noise of a protected
    folder.
    """
    terminal = Terminal(to_stderr=detecting.as_json)
    if detecting.detect is not None:
        _check_alone(data_root, crossed, noises, training, running)
        if len(parse_seeds(crossed.seeds)) > 1:
            raise UserError(f"--seeds {crossed.seeds}: --detect trains once; give one seed")
        if running.threads is not None:
            check_threads(running.threads, least=1)
        _load("time_to_detect")
        with to_go_on_later(BEGINS_AGAIN):
            found = detect(detecting, detecting.detect, out, running, crossed.first_seed(), terminal)
        if detecting.as_json:
            print(json.dumps(found, indent=1, ensure_ascii=False))
        return
    unused = first_given(detecting)
    if unused is not None:
        raise UserError(f"{unused}: is for --detect DIR; leave it out")
    if data_root is None or out is None:
        raise UserError(f"--{'out' if data_root else 'data-root'}: is needed, unless you give --detect DIR")
    check_options(crossed, noises, training, running)
    _load("bench_study", "matrix")
    with to_go_on_later():
        matrix = bench_of(data_root, out, crossed, noises, training, running, terminal)
        matrix.open()
        if running.dry_run:
            show_plan(terminal.console, matrix)
            return
        left = matrix.run(running.limit_hours)
    show_tables(terminal.console, out, crossed.set_names())
    if left:
        terminal.say(f"The limit is reached; {len(left)} trainings are left. Run the same command again to go on.")


def _load(*modules: str) -> None:
    """Imports modules of the evaluation, which takes seconds, before anything is begun that an interrupt could stop."""
    for name in ("torch", *(f"unseg.evaluation.{module}" for module in modules)):
        import_module(name)


def _check_alone(data_root: Path | None, *groups: object) -> None:
    """Raises UserError where an option of the matrix is given together with --detect."""
    given = "--data-root" if data_root is not None else None
    for group in groups:
        given = given or first_given(group, but=("seeds", "device", "threads"))
    if given is not None:
        raise UserError(f"{given}: is for the matrix, and --detect measures one folder; leave one of the two out")


# --- tables ----------------------------------------------------------------------------------------------------------


def show_plan(console: Console, matrix: Bench) -> None:
    """Prints every cell that is not trained yet with how long it takes, and the sum."""
    left = matrix.left()
    total, seconds = sum(1 for _ in matrix.matrix.cells()), matrix.seconds(left)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for column in ("set", "trained on", "network", "seed"):
        table.add_column(column, overflow="fold")
    table.add_column("minutes", justify="right")
    for cell, each in zip(left, seconds, strict=True):
        table.add_row(cell.set, cell.condition, cell.network, str(cell.seed), f"{each / MINUTE:.1f}")
    if left:
        console.print(table)
    said = f"{total} trainings, {total - len(left)} of them done; the rest takes about {sum(seconds) / HOUR:.1f} hours"
    console.print(f"{said} ({_how_known(matrix, left)}).", soft_wrap=True, highlight=False)
    console.print("Making noise that is fitted to a set (em, tap) is not counted. Nothing was trained.", soft_wrap=True)


def _how_known(matrix: Bench, cells: list[Cell]) -> str:
    tried = sorted({f"{cell.network} on {cell.set}" for cell in cells if not matrix.pace(cell).measured})
    return f"from a trial of a few steps: {', '.join(tried)}" if tried else "from trainings that are done"


def show_tables(console: Console, out: Path, sets: tuple[str, ...]) -> None:
    """Prints for each set and network the retained learning of each noise under each defence."""
    from unseg.report.heat_map import grid_of
    from unseg.report.sections import read_sections
    from unseg.report.text import metric_name

    folders = [out / name for name in sets if (out / name / "results.json").exists()]
    for folder in folders:
        for section in read_sections(folder):
            for network in section.networks:
                title = f"{folder.name}, {network.name}: retained learning"
                console.print(printable(title), soft_wrap=True, markup=False)
                console.print(matrix_table(grid_of(network, metric_name(section.metric))))
    if folders:
        named = printable(" ".join(map(str, folders)))
        console.print(f"Page with charts and tables: unseg report {named}", soft_wrap=True, markup=False)


def matrix_table(grid: Grid) -> Table:
    """Returns a map as a table: noises in rows, defences in columns, what was not measured blank."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("trained on", no_wrap=True)
    for column in grid.columns:
        table.add_column(column, justify="right", overflow="fold")
    for row, name in enumerate(grid.rows):
        cells = [grid.cells.get((row, column)) for column in range(len(grid.columns))]
        table.add_row(name, *("" if cell is None else cell.number for cell in cells))
    return table
