"""The summary of a run of `protect`, for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
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
EXPLAINED = {
    "weak": "written, but their objects changed too little to protect them",
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
    protected = summary.of("protected")
    return {
        "ok": summary.exit_code == 0,
        "dry_run": summary.dry,
        "manifest": as_written(out / MANIFEST),
        "seconds": round(summary.seconds, 3),
        "forecast": asdict(summary.forecast),
        "protected": len(protected),
        "kept_from_earlier_runs": summary.kept,
        "weak": len(summary.of("weak")),
        "uncoded": len(summary.of("uncoded")),
        "copied": len(summary.of("copied")),
        "skipped": len(summary.of("skipped")),
        "failed": len(summary.of("failed")),
        "psnr": _psnr(protected),
        "quality": _quality(protected),
        "over_budget": _breach(protected),
        "not_protected": [
            {"input": entry.input, "input_root": entry.input_root, "status": entry.status, "reason": entry.reason}
            for entry in summary.entries
            if entry.status != "protected"
        ],
        "notes": [{"input": entry.input, "note": entry.note} for entry in protected if entry.note],
    }


def _psnr(protected: Sequence[Entry]) -> dict[str, float] | None:
    """Returns mean and lowest PSNR in dB; None where no image changed."""
    ratios = [entry.psnr for entry in protected if entry.psnr is not None]
    return {"mean": sum(ratios) / len(ratios), "lowest": min(ratios)} if ratios else None


def _quality(protected: Sequence[Entry]) -> dict[str, float] | None:
    """Returns the means of what --quality measures over the images that have it; None where none has."""
    found: dict[str, float] = {}
    for name in MEASURES:
        values = [value for entry in protected if (value := getattr(entry, name)) is not None]
        if values:
            found[name] = sum(values) / len(values)
    return found or None


def _breach(protected: Sequence[Entry]) -> dict[str, float] | None:
    """Returns how far a lossy format broke the bound: share of values on average, most grey levels; else None."""
    shares = [entry.over_budget for entry in protected if entry.over_budget is not None]
    levels = [entry.max_over for entry in protected if entry.max_over is not None]
    return {"share": sum(shares) / len(shares), "grey_levels": max(levels)} if shares else None


def print_summary(console: Console, summary: Summary, out: Path, settings: ProtectSettings) -> None:
    """Prints the closing table, and below it what is not protected and why."""
    print_counts(console, summary, out)
    breach = _breach(summary.of("protected"))
    if breach is not None:
        console.print(
            f"JPEG breaks the bound: {breach['share']:.2%} of the values are beyond the budget (--epsilon "
            f"{settings.budget.object:g}, --background-epsilon {settings.budget.background:g}), by up to "
            f"{breach['grey_levels']} grey levels. PNG keeps it exactly.",
            style="yellow",
            soft_wrap=True,
        )
    made = len(summary.entries) - summary.kept
    if summary.seconds > 0 and not summary.dry:
        console.print(
            f"{made} image{'' if made == 1 else 's'} in {summary.seconds:.1f} s"
            f" ({made / summary.seconds:.1f} images/s). "
            f"Manifest: {printable(as_written(out / MANIFEST))}",
            markup=False,
            soft_wrap=True,
        )


def print_counts(console: Console, summary: Summary, out: Path) -> None:
    """Prints how many images have which status, every one that is not protected and why, and the notes."""
    console.print(_table(summary))
    manifest = as_written(out / MANIFEST)
    for status, title, style in UNPROTECTED:
        lines = [f"{entry.input}: {entry.reason}" for entry in summary.of(status)]
        print_list(console, title, lines, style, manifest)
    notes = [f"{entry.input}: {entry.note}" for entry in summary.of("protected") if entry.note]
    print_list(console, "notes", notes, "default", manifest)


def _table(summary: Summary) -> Table:
    protected = summary.of("protected")
    table = Table(title="dry run: nothing was written" if summary.dry else "unseg protect", title_justify="left")
    table.add_column("", justify="left")
    table.add_column("images", justify="right")
    table.add_column("", justify="left")
    kept = f"{summary.kept} of them by an earlier run" if summary.kept else ""
    table.add_row("protected", str(len(protected)), "; ".join(filter(None, (*_measured(protected), kept))))
    for status, title, _ in UNPROTECTED:
        count = len(summary.of(status))
        if count or status in ("copied", "failed"):
            table.add_row(title, str(count), EXPLAINED[status] if count else "")
    return table


def _measured(protected: Sequence[Entry]) -> list[str]:
    """Returns what the table says of how far the images are from their originals."""
    ratios, quality = _psnr(protected), _quality(protected)
    said = [f"PSNR {ratios['mean']:.1f} dB on average, {ratios['lowest']:.1f} at least"] if ratios else []
    means = [f"{MEASURES[name]} {value:.2f}" for name, value in (quality or {}).items()]
    return said + ([f"{', '.join(means)} on average"] if means else [])
