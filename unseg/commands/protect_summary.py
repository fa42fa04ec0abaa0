"""The summary of a run of `protect`, for people and as JSON."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from unseg.commands.console import print_list, printable
from unseg.protecting.manifest import MANIFEST, Entry
from unseg.storage.mirror import as_written

if TYPE_CHECKING:  # torch is imported only when a run begins
    from unseg.protecting.run import ProtectSettings, Summary


UNPROTECTED = (  # status, title and colour of what is not protected
    ("weak", "weak", "yellow"),
    ("uncoded", "uncoded", "yellow"),
    ("copied", "copied without protection", "yellow"),
    ("skipped", "left out: no object", "yellow"),
    ("failed", "failed", "red"),
)
ALL_OVER = "all over, which cannot keep networks from learning the objects; give masks of the objects"
EXPLAINED = {
    "weak": "written, but their objects changed too little, or are too small, to protect them",
    "uncoded": "written without noise: no pixel has a code",
    "copied": "byte for byte, with all their metadata",
    "skipped": "nothing written; see --unmasked",
    "failed": "nothing written",
}
MEASURES = {"delta_e": "ΔE2000 of objects", "s_cielab": "S-CIELAB of objects", "ssim": "SSIM"}


def as_dict(summary: Summary, out: Path) -> dict[str, Any]:
    """Returns what a run did, for programs.

    not_protected: every input that is not, with its status and why. forecast: what was foreseen before the run, seconds
    and bytes_out null where no image was tried.
    """
    protected = Protected(summary.entries)
    return {
        "ok": summary.exit_code == 0,
        "dry_run": summary.dry,
        "manifest": as_written(out / MANIFEST),
        "seconds": round(summary.seconds, 3),
        "forecast": asdict(summary.forecast),
        "protected": summary.counts["protected"],
        "kept_from_earlier_runs": summary.kept,
        "weak": summary.counts["weak"],
        "uncoded": summary.counts["uncoded"],
        "copied": summary.counts["copied"],
        "skipped": summary.counts["skipped"],
        "failed": summary.counts["failed"],
        "psnr": protected.psnr(),
        "quality": protected.quality(),
        "over_budget": protected.breach(),
        "noise_all_over": protected.all_over,
        "not_protected": [
            {"input": entry.input, "input_root": entry.input_root, "status": entry.status, "reason": entry.reason}
            for entry in summary.entries
            if entry.status != "protected"
        ],
        "notes": [{"input": name, "note": note} for name, note in protected.notes],
    }


class Protected:
    """What is told of all protected images of a run together: eight bytes a value of each, and notes.

    all_over: how many have the noise of an object on all of the image, so that nothing tells the object from the rest.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._values = {name: array("d") for name in ("psnr", *MEASURES, "over_budget", "max_over")}
        self.notes: list[tuple[str, str]] = []
        self.all_over = 0
        for entry in entries:
            if entry.status == "protected":
                self._add(entry)

    def _add(self, entry: Entry) -> None:
        for name, values in self._values.items():
            value = getattr(entry, name)
            if value is not None:
                values.append(value)
        if entry.note:
            self.notes.append((entry.input, entry.note))
        self.all_over += entry.is_all_over

    def _mean(self, name: str) -> float | None:
        values = self._values[name]
        return sum(values) / len(values) if values else None

    def psnr(self) -> dict[str, float] | None:
        """Returns mean and lowest PSNR in dB; None where no image changed."""
        mean = self._mean("psnr")
        return None if mean is None else {"mean": mean, "lowest": min(self._values["psnr"])}

    def quality(self) -> dict[str, float] | None:
        """Returns the means of what --quality measures over the images that have it; None where none has."""
        return {name: mean for name in MEASURES if (mean := self._mean(name)) is not None} or None

    def breach(self) -> dict[str, float] | None:
        """Returns how far a lossy format broke the bound: share of values on average, most grey levels; else None."""
        share = self._mean("over_budget")
        return None if share is None else {"share": share, "grey_levels": int(max(self._values["max_over"]))}

    def said(self) -> list[str]:
        """Returns what the table says of how far the images are from their originals."""
        ratios, quality = self.psnr(), self.quality()
        said = [f"PSNR {ratios['mean']:.1f} dB on average, {ratios['lowest']:.1f} at least"] if ratios else []
        means = [f"{MEASURES[name]} {value:.2f}" for name, value in (quality or {}).items()]
        return said + ([f"{', '.join(means)} on average"] if means else [])


def print_summary(
    console: Console, summary: Summary, out: Path, settings: ProtectSettings, said: Callable[[str], str] = str
) -> None:
    """Prints the closing table, and below it what is not protected and why. said: puts reasons in a caller's words."""
    protected = print_counts(console, summary, out, said)
    if protected.all_over:
        of = f"{protected.all_over} of {summary.counts['protected']} protected images"
        console.print(
            f"In {of} the noise is {ALL_OVER}.",
            style="yellow",
            soft_wrap=True,
        )
    breach = protected.breach()
    if breach is not None:
        console.print(
            f"JPEG breaks the bound: {breach['share']:.2%} of the values are beyond the budget (--epsilon "
            f"{settings.budget.object:g}, {_elsewhere(settings)}), by up to "
            f"{breach['grey_levels']} grey levels. PNG keeps it exactly.",
            style="yellow",
            soft_wrap=True,
        )
    made = len(summary.entries) - summary.kept - summary.counts["failed"] - summary.counts["skipped"]
    if summary.seconds > 0 and not summary.dry:
        console.print(
            f"{made} image{'' if made == 1 else 's'} written in {summary.seconds:.1f} s"
            f" ({made / summary.seconds:.1f} images/s). "
            f"Manifest: {printable(as_written(out / MANIFEST))}",
            markup=False,
            soft_wrap=True,
        )


def _elsewhere(settings: ProtectSettings) -> str:
    """Returns the budget beside the object, as the user gave it; codes leave the rest as it is."""
    return "0 elsewhere" if settings.kind == "codes" else f"--background-epsilon {settings.budget.background:g}"


def print_counts(console: Console, summary: Summary, out: Path, said: Callable[[str], str] = str) -> Protected:
    """Prints how many images have which status, every one that is not protected and why, and the notes.

    Returns what is told of those that are protected.
    """
    protected = Protected(summary.entries)
    console.print(_table(summary, protected))
    manifest = as_written(out / MANIFEST)
    for status, title, style in UNPROTECTED:
        lines = [
            f"{entry.input}: {said(str(entry.reason))}"
            for entry in (summary.of(status) if summary.counts[status] else ())
        ]
        print_list(console, title, lines, style, manifest)
    notes = [f"{name}: {note}" for name, note in protected.notes]
    print_list(console, "notes", notes, "default", manifest)
    return protected


def _table(summary: Summary, protected: Protected) -> Table:
    table = Table(title="dry run: nothing was written" if summary.dry else "unseg protect", title_justify="left")
    table.add_column("", justify="left")
    table.add_column("images", justify="right")
    table.add_column("", justify="left")
    kept = f"{summary.kept} of them by an earlier run" if summary.kept else ""
    table.add_row("protected", str(summary.counts["protected"]), "; ".join(filter(None, (*protected.said(), kept))))
    for status, title, _ in UNPROTECTED:
        count = summary.counts[status]
        if count or status in ("copied", "failed"):
            table.add_row(title, str(count), EXPLAINED[status] if count else "")
    return table
