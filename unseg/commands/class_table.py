"""Every class's IoU of the conditions of a comparison, beside each other."""

from __future__ import annotations

import sys
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from unseg.errors import UserError
from unseg.evaluation.condition_names import shown_name
from unseg.evaluation.results import Json, Spread, grouped, read_results, spread

ABSENT = "–"  # no test image shows the class


def class_spreads(runs: dict[int, Json]) -> dict[str, Spread | None]:
    """Returns each class's final IoU over a condition's seeds, then the mean IoU.

    A class that the test images lack has None.
    """
    metrics = [run["metrics"] for run in runs.values()]
    names = dict.fromkeys(name for found in metrics for name in found["class_iou"])
    return {
        **{name: spread(found["class_iou"].get(name) for found in metrics) for name in names},
        "mean": spread(found["miou"] for found in metrics),
    }


def class_tables(results: Json) -> dict[str, Table]:
    """Returns a table, by its heading, for each task and network whose runs have IoU by class."""
    tables = {}
    for (task, network), conditions in grouped(results).items():
        if not all("class_iou" in run.get("metrics", {}) for runs in conditions.values() for run in runs.values()):
            continue
        columns = {condition: class_spreads(runs) for condition, runs in conditions.items()}
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
        table.add_column("class")
        for condition in columns:
            table.add_column(shown_name(condition), justify="right", no_wrap=True)
        names = list(dict.fromkeys(name for column in columns.values() for name in column if name != "mean"))
        for name in (*names, "mean"):
            if name == "mean":
                table.add_section()
            table.add_row(name, *(_percent(column.get(name)) for column in columns.values()))
        tables[f"{task}, {network}: IoU on clean test images, in percent"] = table
    return tables


def _percent(value: Spread | None) -> str:
    if value is None:
        return ABSENT
    return f"{100 * value.mean:.1f}" + ("" if value.sd is None else f"±{100 * value.sd:.1f}")


def main(arguments: list[str]) -> int:
    """Prints the tables of OUT/results.json and returns the exit code. arguments: OUT."""
    try:
        tables = class_tables(read_results(Path(arguments[0]) / "results.json"))
        if not tables:
            raise UserError(f"{arguments[0]}/results.json: none of its runs has IoU by class")
    except UserError as error:
        print(f"class_table: error: {error}", file=sys.stderr)
        return 2
    console = Console()
    for heading, table in tables.items():
        console.print(f"\n{heading}", highlight=False, soft_wrap=True)
        console.print(table)
    return 0
