"""The figures of the benchmark of generation, as a table for people."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from benchmarks.parts import FAST

Rows = list[tuple[str, str]]


def table(figures: dict[str, Any]) -> Table:
    """Returns the figures for people."""
    where = figures["machine"]
    computer = figures["device"] if figures["device"] != "CPU" else f"{where['processor']}, {where['cores']} cores"
    result = Table(title=f"{computer}, {where['threads']} threads, torch {where['torch']}")
    result.add_column("what")
    result.add_column("figure", justify="right")
    for kind, rate in figures["matrix_tflops"].items():
        result.add_row(f"matrix products, {kind}", f"{rate:.3g} TFLOP/s")
    for section, rows in (("compact", _generator_rows), ("vit", _generator_rows), ("growth", _growth_rows)):
        if section in figures:
            result.add_section()
            for row in rows(section, figures[section], figures["matrix_tflops"]):
                result.add_row(*row)
    return result


def _rate(figure: float | None) -> str:
    return "not measurable" if figure is None else f"{figure:.3g}"


def _generator_rows(section: str, figures: dict[str, Any], matrix: dict[str, float]) -> Rows:
    rows = [
        (f"{section}: images/s, JPEG to PNG on disk", _rate(figures["images_per_second"])),
        ("  the plain way, JPEG to JPEG", _rate(figures["plain"]["images_per_second"])),
        ("  ratio to the plain way, median round", _rate(figures["ratio"])),
        *(_round_row(number, found) for number, found in enumerate(figures["rounds"], start=1)),
        ("  largest difference of the noise", f"{figures['noise_difference']:.1g}"),
        *map(_run_row, figures["runs"]),
        ("  the plain way: peak memory", f"{figures['plain']['peak_mib']:.0f} MiB"),
    ]
    for way, name in (("encoder", "this"), ("plain", "plain")):
        if "encoder_tflops" in figures.get(way, {}):
            rows.append((f"  image encoder, {name}", f"{figures[way]['encoder_tflops']:.3g} TFLOP/s"))
    if "fast" in figures:
        rows.append((f"  with {' '.join(FAST)}: images/s", _rate(figures["fast"]["images_per_second"])))
        rows.append(("    ratio to the plain way (goal: 15)", _rate(figures["fast"]["ratio"])))
    rows += way_rows(figures.get("ways", {}), matrix)
    return rows + (_stage_rows(figures["where"]) if "where" in figures else [])


def _round_row(number: int, found: dict[str, Any]) -> tuple[str, str]:
    rates = (_rate(found[what]) for what in ("images_per_second", "plain_images_per_second", "ratio"))
    return f"    round {number}: here, plain, ratio", ", ".join(rates) + _taken(found)


def _run_row(run: dict[str, Any]) -> tuple[str, str]:
    what = f"  {run['images']} images: seconds with start-up; peak memory"
    return what, f"{run['seconds']:.1f}; {run['peak_mib']:.0f} MiB"


def _stage_rows(where: dict[str, Any]) -> Rows:
    rows = [
        (f"  {name}: ms an image (of processor time)", f"{stage['milliseconds']:.1f} ({stage['processor_ms']:.1f})")
        for name, stage in where["stages"].items()
    ]
    idle = f"  device idle; most time beside the network: {where['beside']}"
    return [*rows, (idle, f"{where['idle_share']:.0%}")]


def way_rows(found: dict[str, dict[str, Any]], matrix: dict[str, float]) -> Rows:
    """Returns the rows of the network alone, in every precision. matrix: measured rates of matrix products, TFLOP/s."""
    rows = []
    for name, way in found.items():
        if "failed" in way:
            rows.append((f"  network, {name}", f"failed: {way['failed']}"))
            continue
        what = f"  network, {name}: images/s (same values; largest difference)"
        rows.append((what, f"{_rate(way['images_per_second'])} ({way['same']:.3%}; {way['most']})"))
        if "encoder_tflops" in way:
            rate, goal = way["encoder_tflops"], " (goal: 35 %)" if name == "bfloat16" else ""
            share = f", {rate / matrix[name]:.0%} of {name}'s rate{goal}" if name in matrix else ""
            rows.append(("    image encoder", f"{rate:.3g} TFLOP/s{share}"))
    return rows


def _growth_rows(section: str, figures: dict[str, Any], matrix: dict[str, float]) -> Rows:
    side, alone = figures["small_side"], figures["single"]
    rows = [(f"{found['images']} images of {side}×{side}: images/s; peak memory", found) for found in figures["images"]]
    rows += [
        (f"{found['width']}×{found['height']}: images/s; peak memory", found)
        for found in figures["megapixels"].values()
    ]
    shown = [(what, f"{_rate(found['images_per_second'])}; {found['peak_mib']:.0f} MiB") for what, found in rows]
    if "scaling" in figures:
        found = figures["scaling"]
        shown += [
            (
                "1 process, 2 processes, one core each: images/s; peak memory",
                f"{_rate(found['one'])}, {_rate(found['two'])}; {found['peak_mib']:.0f} MiB",
            ),
            ("  two to one, median round (plain products)", f"{_rate(found['ratio'])} ({found['products']:.3g})"),
        ]
        shown += [
            (
                f"    round {number}: two to one (plain products)",
                f"{_rate(one['ratio'])} ({one['products']:.3g})" + _taken(one),
            )
            for number, one in enumerate(found["rounds"], start=1)
        ]
    each = ", ".join(f"{one['seconds']:.2f}" for one in alone["rounds"])
    return [
        *shown,
        (
            f"one photograph of {alone['width']}×{alone['height']}: seconds without start-up; peak memory",
            f"{alone['seconds']:.2f} ({each}); {alone['peak_mib']:.0f} MiB",
        ),
        ("  start-up: seconds", f"{alone['start_up']:.2f}"),
    ]


def _taken(found: dict[str, Any]) -> str:
    """Returns what the host took in a round."""
    return "" if found["stolen_share"] is None else f"; {found['stolen_share']:.1%} taken by the host"
