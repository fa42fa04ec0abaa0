"""What `unseg evaluate` prints at the end: a table for each network, and what the tables do not say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from unseg.counts import count_of

if TYPE_CHECKING:  # torch is imported only when the command runs, so that --help is fast
    from unseg.evaluation.results import Row, Spread
    from unseg.evaluation.study import Study


def show_results(console: Console, results: dict[str, Any], study: Study) -> None:
    """Prints a table for each network, and what the tables do not say."""
    from unseg.evaluation.results import rows

    table = [row for row in rows(results) if row.task == study.task]
    metric = results["tasks"][study.task]["metric"]
    for network in dict.fromkeys(row.network for row in table):
        of_network = [row for row in table if row.network == network]
        console.print(result_table(f"{study.task}, {network}", of_network, metric))
    for line in remarks(results, study):
        console.print(line, soft_wrap=True, highlight=False)


def result_table(title: str, rows: list[Row], metric: str = "miou") -> Table:
    """Returns the closing table of a task and network: mean ± sample sd over `n` seeds. It fits in 80 columns."""
    from unseg.evaluation.condition_names import TRIVIAL, shown_name
    from unseg.evaluation.results import shown_metric

    table = Table(
        title=f"{title}: {shown_metric(metric)} on clean test images",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    table.add_column("trained on", no_wrap=True)
    for column in ("final", "best", "PSNR", "train\nloss", "retained\nlearning", "n"):
        table.add_column(column, justify="right", no_wrap=not column.startswith("retained"))
    for row in rows:
        table.add_row(
            "(trivial)" if row.condition == TRIVIAL else shown_name(row.condition),
            _number(row.final, 3),
            _number(row.best, 3),
            _mean(row.psnr, 1),
            _mean(row.train_loss, 3),
            _retained(row),
            str(len(row.seeds) or ""),
        )
    return table


def remarks(results: dict[str, Any], study: Study) -> list[str]:
    """Returns what the table does not say: sizes, the majority class, classes left out of the mean."""
    from unseg.evaluation.results import clean_runs_that_lack

    facts, schedule = results["tasks"][study.task], study.schedule
    majority = f"; trivial = class {facts['majority_class']} everywhere" if "majority_class" in facts else ""
    steps = f"{count_of(schedule.steps, 'step')} of {schedule.batch}"
    lines = [
        f"{facts['train_images']} training and {facts['test_images']} test images, "
        f"{_views(study)}, {steps}; n seeds, each against the clean run of the "
        f"same seed and defences: mean ± sample standard deviation{majority}."
    ]
    if facts.get("absent_classes"):
        lines.append(
            "Left out of the mean, since no test image shows them: classes "
            f"{', '.join(map(str, facts['absent_classes']))}."
        )
    lines += [*facts.get("remarks", []), *_notes(results, study.task)]
    if any("+" in name for name in study.conditions):
        lines.append("PSNR is that of the change, before defences; results.json has both (stored: after them).")
    lacking = clean_runs_that_lack(results, study.task)
    if lacking:
        lines.append(
            f"Retained learning is blank without clean images under the same defences: add {', '.join(lacking)} to "
            "--conditions."
        )
    if study.perceptual is None and len(study.conditions) > 1:
        lines.append("LPIPS was not measured: it needs a weight file (--lpips-weights).")
    lines.append(f"Written: {study.out}/results.json. Page with charts and tables: unseg report {study.out}")
    return lines


def _views(study: Study) -> str:
    """Returns how images are seen, in words."""
    if "size" not in study.common:
        return f"crops of {study.common['crop']} pixels, tests at native size"
    width, height = study.common["size"]
    return f"{width}x{height}"


def _notes(results: dict[str, Any], task: str) -> list[str]:
    """Returns what networks say of themselves, each sentence once."""
    runs = [run for run in results["runs"] if run["settings"]["task"] == task]
    notes = (f"{run['settings']['network']}: {note}" for run in runs for note in run["result"].get("notes", ()))
    return list(dict.fromkeys(notes))


def _number(value: Spread | None, digits: int) -> str:
    """Returns mean ± standard deviation; the mean alone where there is one seed; nothing where there is none."""
    if value is None or value.sd is None:
        return _mean(value, digits)
    return f"{value.mean:.{digits}f}±{value.sd:.{digits}f}"


def _mean(value: Spread | None, digits: int) -> str:
    return "" if value is None else f"{value.mean:.{digits}f}"


def _retained(row: Row) -> str:
    """Returns retained learning, and over how many seeds where some of the row's have no clean run."""
    shown = _number(row.retained, 2)
    if row.retained is None or row.retained.count == len(row.seeds):
        return shown
    return f"{shown} (n {row.retained.count})"
