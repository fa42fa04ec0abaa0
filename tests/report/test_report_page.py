"""The page and its tables: the numbers, the escaping, what is missing or broken, and how it looks in Chromium."""

from __future__ import annotations

import copy
import itertools
import json
import os
import re
import shutil
import statistics
import subprocess
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image

from tests.support.chromium import PROGRAM, Chromium
from tests.support.report_results import CONDITIONS, full_results, pictures, results, run, write
from unseg import cli
from unseg.errors import UserError
from unseg.report import charts, text
from unseg.report.charts import Bar, Line, Style
from unseg.report.figures import figures, style_of, sweep_lines
from unseg.report.markdown import markdown
from unseg.report.model import Section
from unseg.report.page import page
from unseg.report.sections import read_sections
from unseg.report.writing import write_report
from unseg.storage.image_encoding import write_png

ROOT = Path(__file__).resolve().parents[2]
VOID = {"meta", "img", "br"}


@dataclass
class Tag:
    """An element of a page that was read back."""

    name: str
    attributes: dict[str, str | None] = field(default_factory=dict)
    children: list[Tag | str] = field(default_factory=list)

    def all(self, name: str | None = None, **attributes: str) -> list[Tag]:
        """Every element below with that name and these attributes, in order."""
        found = []
        for child in (child for child in self.children if isinstance(child, Tag)):
            found += [child] if child.fits(name, attributes) else []
            found += child.all(name, **attributes)
        return found

    def fits(self, name: str | None, attributes: dict[str, str]) -> bool:
        return name in (None, self.name) and all(
            self.attributes.get(key.rstrip("_")) == value for key, value in attributes.items()
        )

    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text() for child in self.children)


class Reader(HTMLParser):
    """A page as a tree; every element must be closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.root = Tag("document")
        self.open = [self.root]
        self.feed(html)
        self.close()
        assert self.open == [self.root], f"<{self.open[-1].name}> is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        made = Tag(tag, dict(attrs))
        assert len(made.attributes) == len(attrs), f"<{tag}> has an attribute twice"
        self.open[-1].children.append(made)
        if tag not in VOID:
            self.open.append(made)

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].name == tag, f"</{tag}> closes <{self.open[-1].name}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read_page(sections: list[Section]) -> Tag:
    return Reader(page(sections).html).root


def sections_of(folder: Path, content: dict[str, Any]) -> list[Section]:
    return read_sections(write(folder, content))


def table_rows(table: Tag) -> dict[str, list[str]]:
    """Row head → cells, without the names of groups."""
    return {
        row.all("th")[0].text(): [cell.text() for cell in row.all("td")]
        for row in table.all("tbody")[0].all("tr")
        if row.all("td")
    }


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return full_results(tmp_path_factory.mktemp("runs") / "full")


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_table_has_means_deviations_and_retained_learning(tmp_path: Path) -> None:
    """Clean 0.9 and 0.7, protected 0.5 and 0.3, trivial 0.3: retained (0.2/0.6, 0/0.4), mean 1/6, sd 0.2357."""
    runs = [
        run(condition="clean", seed=0, final=0.9),
        run(condition="clean", seed=1, final=0.7),
        run(condition="protected", seed=0, final=0.5),
        run(condition="protected", seed=1, final=0.3, best=0.6),
    ]
    root = read_page(sections_of(tmp_path, results(runs)))
    table = root.all("table")[0]
    assert [cell.text() for cell in table.all("thead")[0].all("th")] == [
        "trained on",
        "final mIoU",
        "best mIoU",
        "retained learning",
        "PSNR (dB)",
        "SSIM",
        "largest change",
        "time",
        "seeds",
    ]
    assert table_rows(table) == {
        "clean": ["0.800 ± 0.141", "0.800 ± 0.141", "1.00 ± 0.00", "–", "–", "–", "2.5 min", "2"],
        "protected": ["0.400 ± 0.141", "0.550 ± 0.071", "0.17 ± 0.24", "34.2", "0.913", "8 / 2", "2.5 min", "2"],
    }
    assert "Not measured: LPIPS." in root.text() and "(trivial answer 0.300)" in root.text()


def test_one_seed_has_no_deviation_and_says_so(tmp_path: Path) -> None:
    root = read_page(sections_of(tmp_path, results([run(), run(condition="protected", final=0.36)])))
    assert table_rows(root.all("table")[0])["protected"][:3] == ["0.360", "0.360", "0.10"]
    assert "One seed: nothing is known of the spread" in root.text() and "±" not in root.text()


def test_finding_and_tiles_are_means_over_networks(tmp_path: Path) -> None:
    runs = [
        run("a", "clean", 0, 0.9),
        run("a", "protected", 0, 0.3),
        run("b", "clean", 0, 0.7),
        run("b", "protected", 0, 0.5),
    ]
    root = read_page(sections_of(tmp_path, results(runs)))
    assert root.all("p", class_="finding")[0].text() == (
        "Means over 2 networks: final mIoU on clean test images is 0.800 after training on clean images, 0.400 after "
        "protected images (retained learning 0.00 to 0.50); the trivial answer has 0.300."
    )
    tiles = root.all("dl", class_="tiles")[0].all("div")
    assert [[part.text() for part in tile.all("dt") + tile.all("dd")] for tile in tiles] == [
        ["clean", "0.800", "final mIoU"],
        ["protected", "0.400", "retained learning 0.25"],
        ["trivial answer", "0.300", "mIoU"],
    ]


def test_what_a_network_lacks_and_how_images_were_made_is_said(tmp_path: Path) -> None:
    runs = [run("a"), run("a", "protected"), run("a", "protected", 1), run("b", notes=["Its head starts at random."])]
    root = read_page(
        sections_of(tmp_path, results(runs, absent_classes=["tram"], majority_class="sky", remarks=["So it is."]))
    )
    remarks = [item.text() for item in root.all("ul", class_="remarks")[0].all("li")]
    assert remarks == [
        "The trivial answer is class sky, the most frequent one of the training labels, at every pixel.",
        "Left out of every mean, since no test image shows them: tram.",
        "The conditions of a have between 1 and 2 seeds.",
        "Not run on b: protected.",
        "b: Its head starts at random.",
        "So it is.",
    ]
    names, values = ([part.text() for part in root.all("dl", class_="facts")[0].all(name)] for name in ("dt", "dd"))
    facts = dict(zip(names, values, strict=True))
    assert (
        facts["images: protected"] == "budget object 8, background 2"
        and facts["size"] == "128×96"
        and facts["seed"] == "0, 1"
    )


def test_runs_of_images_that_were_made_otherwise_are_left_out_and_counted(tmp_path: Path) -> None:
    stale, fresh = run(condition="protected", seed=0, final=0.9), run(condition="protected", seed=1, final=0.4)
    fresh["settings"]["images"] = {"generator": "new"}
    root = read_page(sections_of(tmp_path, results([run(), stale, fresh])))
    assert table_rows(root.all("table")[0])["protected"][0] == "0.400"
    assert "Left out: 1 run that a later one of the same condition and seed, or of images" in root.text()


@pytest.mark.parametrize(
    ("metric", "shown"),
    [
        ("miou", "mIoU"),
        ("ap", "AP"),
        ("pq", "PQ"),
        ("dice", "Dice"),
        ("iou_box", "IoU from boxes"),
        ("some_new_one", "some new one"),
    ],
)
def test_every_metric_has_its_name_in_tables_and_charts(tmp_path: Path, metric: str, shown: str) -> None:
    runs = [run(metric=metric, task="x"), run(metric=metric, task="x", condition="protected", final=0.4)]
    sections = sections_of(tmp_path, results(runs))
    root = read_page(sections)
    assert f"final {shown}" in [cell.text() for cell in root.all("th")]
    assert all(
        f", final {shown}: clean 0.900; protected 0.400; trivial 0.300" in picture.attributes["aria-label"]
        for picture in root.all("svg", role="img")[:1]
    )
    assert f"final {shown}" in markdown(sections)


def test_metrics_by_class_are_folded_with_absent_ones_left_blank(tmp_path: Path) -> None:
    of = [{"miou": 0.5, "ap50": 0.7, "class_iou": {"road": 0.4 + seed / 10, "tram": None}} for seed in (0, 1)]
    root = read_page(sections_of(tmp_path, results([run(seed=seed, metrics=of[seed]) for seed in (0, 1)])))
    folded = {part.all("summary")[0].text(): part.all("table")[0] for part in root.all("details") if part.all("table")}
    assert table_rows(folded["IoU by class"]) == {"road": ["0.450 ± 0.071"], "tram": ["–"]}
    assert table_rows(folded["Every metric"]) == {"clean": ["0.700 ± 0.000"]}


def test_counts_are_whole_numbers(tmp_path: Path) -> None:
    root = read_page(
        sections_of(tmp_path, results([run(metrics={"miou": 0.5, "counts": {"prompts": 40, "images": 1}})]))
    )
    folded = {part.all("summary")[0].text(): part.all("table")[0] for part in root.all("details") if part.all("table")}
    assert table_rows(folded["counts"]) == {"prompts": ["40"], "images": ["1"]}


def remarks_of(folder: Path, runs: list[dict[str, Any]]) -> str:
    return " ".join(item.text() for item in read_page(sections_of(folder, results(runs))).all("li"))


def test_why_retained_learning_is_blank_is_said(tmp_path: Path) -> None:
    alone = [run(condition="protected"), run(condition="protected+jpeg75")]
    assert "net: retained learning is blank without a run on clean and on clean, JPEG 75." in remarks_of(
        tmp_path, alone
    )
    nothing = [run(final=0.3), run(condition="protected", final=0.2)]
    told = "net: retained learning is blank where clean images taught it no more than the trivial answer"
    assert told in remarks_of(tmp_path, nothing)
    assert "blank" not in remarks_of(tmp_path, [run(), run(condition="protected", final=0.4)])
    # As people train nothing stands in for clean images under the same defence; in other views clean ones do.
    defended = [run(), run(condition="protected+jpeg75", final=0.4)]
    assert "blank" not in remarks_of(tmp_path, defended)
    for each in defended:
        each["settings"]["views"] = "practice"
    assert "net: retained learning is blank without a run on clean, JPEG 75." in remarks_of(tmp_path, defended)


def test_images_that_were_not_made_alike_are_said(tmp_path: Path) -> None:
    runs = [run(), run(condition="codes"), run(condition="codes+jpeg75"), run("other"), run("other", condition="codes")]
    for place, budget in enumerate((8, 8, 8, 4, 4)):
        runs[place]["settings"]["images"] = (
            {"budget": budget} if "codes" in runs[place]["settings"]["condition"] else {}
        )
    told = "Images of codes were not all made alike, so do not compare codes on net, codes, JPEG 75 on net and codes on"
    assert told in remarks_of(tmp_path, runs)
    for each in runs[1:3]:
        each["settings"]["images"] = {"budget": 4, "denoise": "0a1b"}
    assert "not all made alike" not in remarks_of(tmp_path, runs)


def test_a_networks_name_stays_as_it_is_in_the_markdown(tmp_path: Path) -> None:
    sections = sections_of(tmp_path, results([run("unet_x", notes=["starts at random."])]))
    assert re.search(r"^- unet\\?_x: starts at random\.", markdown(sections), re.MULTILINE)


def test_where_clean_images_teach_nothing_no_retained_learning_is_claimed(tmp_path: Path) -> None:
    root = read_page(sections_of(tmp_path, results([run(final=0.3), run(condition="protected", final=0.2)])))
    assert "retained" not in root.all("p", class_="finding")[0].text() and "retained" not in root.all("table")[0].text()


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "docs" / "results").glob("*.json")))
def test_published_results_of_every_version_are_read(name: str) -> None:
    path = ROOT / "docs" / "results" / name
    given = json.loads(path.read_text(encoding="utf-8"))
    tables = read_page(read_sections(path)).all("table")
    rows = [cell for table in tables for cells in table_rows_of_groups(table) for cell in cells]
    for each in given["runs"]:
        final = each["result"].get("final", each["result"].get("final_miou"))
        same = [
            other["result"].get("final", other["result"].get("final_miou"))
            for other in given["runs"]
            if all(other["settings"][key] == each["settings"][key] for key in ("task", "network", "condition"))
        ]
        shown = f"{statistics.fmean(same):.3f}" + (f" ± {statistics.stdev(same):.3f}" if len(same) > 1 else "")
        assert final is not None and shown in rows


def table_rows_of_groups(table: Tag) -> list[list[str]]:
    return [[cell.text() for cell in row.all("td")] for row in table.all("tr") if row.all("td")]


def test_several_files_are_sections_with_a_table_of_contents(tmp_path: Path) -> None:
    one, two = (
        write(tmp_path / "one", results([run()])),
        write(tmp_path / "two", results([run(task="medical", metric="dice")])),
    )
    out = tmp_path / "both.html"
    write_report([one, two, one / "results.json"], out)
    assert re.findall(r'href="(#s\d)">(\w+): ', out.read_text(encoding="utf-8"))[:2] == [("#s1", "one"), ("#s2", "two")]
    assert write_report([one, two, one / "results.json", Path(f"{two}/../two")], out).paths == [
        out,
        tmp_path / "both.md",
    ]
    root = Reader(out.read_text(encoding="utf-8")).root
    links = {link.text(): link.attributes["href"] for link in root.all("nav")[0].all("a")}
    assert links == {"one: semantic": "#s1", "two: medical": "#s2"}
    assert [section.attributes["id"] for section in root.all("section")] == ["s1", "s2"]
    ids = [tag.attributes["id"] for tag in root.all() if "id" in tag.attributes]
    assert len(set(ids)) == len(ids)


def test_a_title_is_the_pages_and_the_tables(tmp_path: Path) -> None:
    write(tmp_path, results([run()]))
    assert cli.main(["report", str(tmp_path), "--title", "Roads & <b>"]) == 0
    root = Reader((tmp_path / "report.html").read_text(encoding="utf-8")).root
    assert root.all("h1")[0].text() == root.all("title")[0].text() == "Roads & <b>"
    assert "# Roads &amp; &lt;b&gt;\n" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_run_is_published_by_one_script(tmp_path: Path) -> None:
    """In a tree where a shell script takes unseg's place."""
    tree = tmp_path / "tree"
    for folder in ("scripts", ".venv/bin", "docs/results"):
        (tree / folder).mkdir(parents=True)
    script = shutil.copy(ROOT / "scripts" / "publish_results.sh", tree / "scripts")
    (tree / "install.sh").write_text("exit 0\n")
    unseg = '#!/bin/sh\nprintf "%s\\n" "$@" >>"$CALLS"\necho "<svg/>" >"$2/report-curves.svg"\n'
    (tree / ".venv" / "bin" / "unseg").write_text(unseg)
    (tree / ".venv" / "bin" / "unseg").chmod(0o755)
    made = write(tmp_path / "a run", results([run()]))
    environment = {**os.environ, "CALLS": str(tmp_path / "calls"), "TITLE": "All roads"}
    subprocess.run(["bash", script, str(made), "roads"], env=environment, check=True, cwd=tmp_path)
    assert (tmp_path / "calls").read_text().splitlines() == [
        "report",
        str(made),
        "--charts",
        "--title",
        "All roads",
        "--out",
        str(made / "report.html"),
    ]
    assert sorted(path.name for path in (tree / "docs" / "results").iterdir()) == ["roads-curves.svg", "roads.json"]
    assert (tree / "docs" / "results" / "roads.json").read_bytes() == (made / "results.json").read_bytes()
    assert subprocess.run(["bash", script, str(made)], capture_output=True).returncode == 2
    (made / "report-curves.svg").unlink()
    (tree / ".venv" / "bin" / "unseg").write_text("#!/bin/sh\n")  # a report without that figure
    unfit = subprocess.run(["bash", script, str(made), "roads"], env=environment, capture_output=True, text=True)
    assert unfit.returncode == 1 and "publish one task at a time" in unfit.stderr


# --- charts ----------------------------------------------------------------------------------------------------------


def shapes(chart: ElementTree.Element, name: str, class_: str) -> list[dict[str, str]]:
    return [part.attrib for part in chart.iter(name) if part.get("class") == class_]


def at(value: float) -> float:
    """Where a value lies on the axis of bars from 0 to 1."""
    return charts.LABEL_END + 6 + value * (charts.PLOT_END - charts.LABEL_END - 6)


def test_bars_whiskers_seeds_and_level_lie_at_their_values() -> None:
    bars = [
        Bar("clean", Style("blue", "circle"), 0.8, 0.1, (0.7, 0.9)),
        Bar("protected", Style("vermillion", "square", True), 0.25, None),
    ]
    chart = charts.bar_panel("net", bars, ("trivial", 0.2), 1.0, "final mIoU")
    found = [float(bar["width"]) for bar in shapes(chart, "rect", "bar")]
    assert found == pytest.approx([at(0.8) - at(0), at(0.25) - at(0)], abs=0.01)
    ends = re.findall(r"M([\d.]+) [\d.]+v8", shapes(chart, "path", "whisker")[0]["d"])
    assert [float(x) for x in ends] == pytest.approx([at(0.7), at(0.9)], abs=0.01)
    assert [float(dot["cx"]) for dot in shapes(chart, "circle", "seed")] == pytest.approx([at(0.7), at(0.9)], abs=0.01)
    assert [float(level["x1"]) for level in shapes(chart, "line", "level")] == pytest.approx([at(0.2)], abs=0.01)
    assert chart.get("aria-label") == "net, final mIoU: clean 0.800 ± 0.100; protected 0.250; trivial 0.200"
    hatched = [group for group in chart.iter("g") if any(line.get("class") == "hatch" for line in group)]
    assert [group.get("class") for group in hatched] == ["vermillion"]


def test_whiskers_stop_at_the_axis() -> None:
    chart = charts.bar_panel("n", [Bar("a", Style("blue", "circle"), 0.05, 0.2)], None, 1.0, "u")
    assert shapes(chart, "path", "whisker")[0]["d"].startswith(f"M{at(0):.2f} ")


def test_lines_lie_at_their_points_with_thin_seeds_below() -> None:
    line = Line(
        "clean", Style("blue", "circle"), [(5, 0.5), (10, 0.75)], [[(5, 0.4), (10, 0.7)], [(5, 0.6), (10, 0.8)]]
    )
    chart = charts.line_panel("net", [line], ("trivial", 0.25), 1.0, "mIoU", "steps")
    width, bottom = charts.PLOT_RIGHT - charts.PLOT_LEFT, charts.PLOT_TOP + charts.PLOT_HEIGHT
    middle, right = charts.PLOT_LEFT + width / 2, float(charts.PLOT_RIGHT)
    assert points(shapes(chart, "path", "mean")[0]["d"]) == [
        (middle, bottom - 0.5 * charts.PLOT_HEIGHT),
        (right, bottom - 0.75 * charts.PLOT_HEIGHT),
    ]
    thin = [points(seed["d"]) for seed in shapes(chart, "path", "thin")]
    expected = [bottom - value * charts.PLOT_HEIGHT for value in (0.4, 0.7, 0.6, 0.8)]
    assert [y for path in thin for _, y in path] == pytest.approx(expected, abs=0.01)
    assert float(shapes(chart, "line", "level")[0]["y1"]) == bottom - 0.25 * charts.PLOT_HEIGHT
    order = [part.get("class") for part in chart.iter("path")]
    assert order.index("mean") > max(i for i, name in enumerate(order) if name == "thin")


def points(path: str) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split())) for pair in path[1:].split("L")]


@given(st.lists(st.floats(0, 100), max_size=5))
def test_an_axis_holds_its_values_and_wastes_less_than_three_fifths(values: list[float]) -> None:
    top, highest = charts.scale_top(values), max([0.01, *values])
    assert highest <= top * (1 + 1e-9) and (top < 2.51 * highest)
    assert re.fullmatch(r"[125](\.0+)?e[+-]\d+", f"{top:e}")
    assert [charts.scale_top([value]) for value in (0.95, 0.5, 0.34, 0.02, 0)] == [1, 0.5, 0.5, 0.02, 0.01]


def test_the_mean_curve_is_that_of_the_steps_that_all_seeds_share(tmp_path: Path) -> None:
    first = run(seed=0, curve=[{"step": 2, "score": 0.2}, {"step": 4, "score": 0.4}, {"step": 6, "score": 0.6}])
    second = run(seed=1, curve=[{"step": 4, "score": 0.6}, {"step": 6, "score": 0.8}])
    section = sections_of(tmp_path, results([first, second]))[0]
    figure = next(figure for figure in figures(section, "mIoU", style_of(section)) if figure.kind == "curves")
    mean = points(shapes(figure.panels[0][1], "path", "mean")[0]["d"])
    bottom = charts.PLOT_TOP + charts.PLOT_HEIGHT
    assert [round((bottom - y) / charts.PLOT_HEIGHT, 3) for _, y in mean] == [0.5, 0.7]
    assert "Thick: mean over seeds; thin: single seeds." in figure.caption


def test_the_sweep_joins_mixtures_to_their_ends_beside_the_clean_rest(tmp_path: Path) -> None:
    levels = {
        "clean": 0.9,
        "protected": 0.3,
        "protected@20": 0.85,
        "protected@60": 0.7,
        "clean@20": 0.88,
        "clean@60": 0.72,
    }
    runs = [run(condition=name, final=level) for name, level in reversed(levels.items())]
    section = sections_of(tmp_path, results(runs))[0]
    mixed, alone = sweep_lines(section.networks[0], style_of(section))
    assert (mixed.name, alone.name) == ("protected and clean rest", "clean rest alone")
    assert mixed.mean == [(0, 0.9), (20, 0.85), (60, 0.7), (100, 0.3)] and alone.mean == [
        (0, 0.9),
        (20, 0.88),
        (60, 0.72),
    ]
    root = read_page([section])
    assert len(root.all("rect", class_="bar")) == 2  # mixtures are no bars of their own
    assert "clean part alone, 40 %" in table_rows(root.all("table")[0])


def test_conditions_look_different_in_colour_or_hatching_and_by_marker(tmp_path: Path) -> None:
    bases = "clean", "protected", "random", "pattern", "mine", "yours", "theirs"
    names = [base + more for base in bases for more in ("", "+jpeg75")]
    styles = style_of(sections_of(tmp_path, results([run(condition=name) for name in names]))[0])
    assert len(set(styles.values())) == len(names)
    assert len({(style.colour, style.marker) for style in styles.values()}) == len(names) / 2
    assert len({style.colour for style in styles.values()}) == 7


def luminance(colour: str) -> float:
    """Relative luminance, as WCAG 2 has it. colour: #rrggbb."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_has_contrast_in_light_and_dark() -> None:
    """4.5:1 for text, WCAG 2's AA."""
    light, dark = (ROOT / "unseg" / "report" / "palette.css").read_text(encoding="utf-8").split("@media")
    themes = [dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in (light, dark)]
    for theme in themes:
        for front, back in itertools.product(("ink", "soft", "link"), ("paper", "card")):
            brighter, darker = sorted((luminance(theme[front]), luminance(theme[back])), reverse=True)
            assert (brighter + 0.05) / (darker + 0.05) >= 4.5, f"{front} on {back}"


# --- names are text --------------------------------------------------------------------------------------------------

HOSTILE = (
    "</style><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '" onload="alert(1)',
    "]]><!--",
    "&lt;b&gt;",
    "a\u202eb\x00\n| c |",
    "[x](http://evil.test)",
    "`code` **bold** _it_ ~~no~~ $x$",
    "http://evil.test www.evil.test",
    "# head",
    "1. one",
    "- two",
    "\ud800",
    "x" * 300,
)
plain_text = st.text(st.characters(blacklist_characters="@+"), min_size=1, max_size=30)


def named(network: str, condition: str, other: str) -> dict[str, Any]:
    """Results with these texts in every place that has one."""
    more = {
        "metrics": {"miou": 0.5, f"z{other}": 0.5, "class_iou": {f"k{other}": 0.5}},
        "notes": [other],
        "examples": [{"name": other, "image": other, "truth": other, "prediction": other}],
        "training_examples": [{"name": other, "clean": other, "changed": other}],
    }
    runs = [run(network, f"x{condition}", final=0.4, device=other, task="t", **more)]
    runs[0]["settings"] |= {"train": other, "images": {"generator": other}}
    content = results(runs, absent_classes=[other], majority_class=other, remarks=[other])
    runs[0]["settings"]["task"] = f"t{other}"
    content["tasks"] = {f"t{other}": content["tasks"]["t"]}
    return content


def skeleton(tag: Tag) -> list[Any]:
    """Elements and their attributes' names, without any text."""
    return [tag.name, sorted(tag.attributes), [skeleton(child) for child in tag.children if isinstance(child, Tag)]]


def structure(folder: Path, network: str, condition: str, other: str) -> list[bytes]:
    """What the page and the Markdown are, texts apart."""
    sections = sections_of(folder, named(network, condition, other))
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    return [
        json.dumps(part).encode()
        for part in (skeleton(read_page(sections)), kinds_of(parser.parse(markdown(sections))))
    ]


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return structure(tmp_path_factory.mktemp("harmless"), "n", "c", "o")


def kinds_of(tokens: list[Any]) -> list[Any]:
    """What Markdown made of a document; of a line, all but texts and the escapes and entities that stand for text."""
    return [
        (
            token.type,
            token.tag,
            kinds_of(child for child in token.children if child.type not in ("text", "text_special"))
            if token.children
            else [],
        )
        for token in tokens
    ]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_are_text(tmp_path: Path, text: str, harmless: list[bytes]) -> None:
    assert structure(tmp_path, text, text, text) == harmless
    sections = read_sections(tmp_path)
    for made in (page(sections).html, markdown(sections)):
        assert all(letter.isprintable() or letter == "\n" for letter in made)
    assert "<script" not in made and "<img" not in made


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(network=plain_text, condition=plain_text, other=plain_text)
def test_no_name_changes_the_page_or_the_table(
    tmp_path: Path, harmless: list[bytes], network: str, condition: str, other: str
) -> None:
    assert structure(tmp_path, network, condition, other) == harmless


def test_bare_addresses_become_no_links(tmp_path: Path) -> None:
    """GitHub links what looks like an address and the library here does not, so this looks at the text itself."""
    made = markdown(sections_of(tmp_path, named("http://a.test", "www.b.test", "ftp://c.test https://d.test")))
    assert "http://" not in made and "https://" not in made and "www." not in made and "a.test" in made


# --- pictures --------------------------------------------------------------------------------------------------------


def test_predictions_and_training_images_are_on_the_page(full: Path) -> None:
    made = page(read_sections(full))
    assert made.problems == []
    images = Reader(made.html).root.all("img")
    assert all(image.attributes["alt"] and image.attributes["src"].startswith("data:image/") for image in images)
    said = [image.attributes["alt"] for image in images]
    assert "astronaut.jpg, unet_resnet18: trained on protected" in said and "chelsea.jpg: protected, noise × 16" in said
    # 3 test images: photograph, truth, and for 2 networks the 5 conditions that are no share.
    # 1 training image of 4 conditions.
    assert len(images) == 3 * (2 + 2 * 5) + 4 * 3
    assert len(made.html) < 1_500_000


def test_noise_is_the_difference_times_16_around_grey(tmp_path: Path) -> None:
    clean = np.full((20, 30, 3), 100, np.uint8)
    write_png(tmp_path / "a.png", clean)
    write_png(tmp_path / "b.png", clean + np.array([4, 0, 2], np.uint8))
    changed = run(condition="protected", training_examples=[{"name": "x", "clean": "a.png", "changed": "b.png"}])
    root = read_page(sections_of(tmp_path, results([run(), changed])))
    noise = next(image for image in root.all("img") if image.attributes["alt"] == "x: protected, noise × 16")
    assert np.abs(decoded(noise).astype(int) - [192, 128, 160]).max() <= 3  # WebP is not exact


def decoded(image: Tag) -> np.ndarray:
    import base64
    import io

    data = base64.b64decode(image.attributes["src"].partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_masks_keep_their_colours_exactly(full: Path) -> None:
    root = read_page(read_sections(full))
    truth = next(image for image in root.all("img") if image.attributes["alt"] == "astronaut.jpg: truth")
    original = np.asarray(
        Image.open(full / "examples" / f"unet_resnet18-{CONDITIONS[0]}" / "astronaut-truth.png").convert("RGB")
    )
    assert np.array_equal(decoded(truth), original)


def test_large_pictures_are_shrunk(tmp_path: Path) -> None:
    noisy = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
    write_png(tmp_path / "a.png", noisy)
    example = run(examples=[{"name": "x", "image": "a.png", "truth": "a.png", "prediction": "a.png"}])
    images = read_page(sections_of(tmp_path, results([example]))).all("img")
    assert [(image.attributes["width"], image.attributes["height"]) for image in images] == [("416", "312")] * 3


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("gone.png", "gone.png: no such file"),
        ("../secret.png", "not a file inside the folder"),
        ("text.png", "text.png: "),
        ("link.png", "not a file inside the folder"),
        ("folder", "folder: no file"),
        ("x" * 300, ": File name too long"),
        ("\ud800", "not a file inside the folder"),
        ("", "not a file inside the folder"),
    ],
)
def test_pictures_that_cannot_be_shown_are_said_and_not_fatal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, said: str
) -> None:
    folder = tmp_path / "run"
    (folder / "folder").mkdir(parents=True)
    for place in (tmp_path / "secret.png", folder / "good.png"):
        write_png(place, np.full((8, 8, 3), 7, np.uint8))
    (folder / "text.png").write_text("no picture")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    example = run(examples=[{"name": "x", "image": "good.png", "truth": file, "prediction": "good.png"}])
    write(folder, results([example]))
    assert cli.main(["report", str(folder)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "not on the page (1)" in printed and said in printed
    root = Reader((folder / "report.html").read_text(encoding="utf-8")).root
    assert said in root.all("div", class_="missing")[0].text() and len(root.all("img")) == 2


# --- what is broken, and what is not overwritten ---------------------------------------------------------------------


def everything() -> dict[str, Any]:
    return named("net", "cond", "x")


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a JSON."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in inner for place in places(child, (*path, key)))]


PLACES = places(everything())
junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.just([]),
    st.just({}),
    st.just([[{}]]),
    st.just({"a": {"b": []}}),
    st.just([1, "a", None]),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(PLACES), value=junk, remove=st.booleans())
def test_a_broken_file_is_a_page_or_one_clear_line(
    tmp_path: Path, place: tuple[Any, ...], value: Any, remove: bool
) -> None:
    content = {"root": everything()}
    parent: Any = content
    for key in ("root", *place)[:-1]:
        parent = parent[key]
    last = ("root", *place)[-1]
    if remove and place:
        del parent[last]
    else:
        parent[last] = value
    (tmp_path / "results.json").write_text(json.dumps(content["root"]))
    try:
        sections = read_sections(tmp_path)
    except UserError as error:
        assert str(tmp_path / "results.json") in str(error) and "\n" not in str(error)
    else:
        Reader(page(sections).html)
        markdown(sections)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not a readable results.json"),
        ("[" * 100_000, "not a readable results.json"),
        ("[]", "not the results of unseg"),
        ('{"tasks": {}, "runs": 5}', "not the results"),
        ('{"tasks": {}, "runs": []}', "holds no run yet"),
    ],
)
def test_a_file_that_is_no_results_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, said: str
) -> None:
    (tmp_path / "results.json").write_text(content)
    assert cli.main(["report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and str(tmp_path) in error
    assert not (tmp_path / "report.html").exists()


def test_a_wrong_value_is_named_by_its_place(tmp_path: Path) -> None:
    broken = results([run(), run(condition="protected", final="high")])
    said = (
        r'results\.json: runs\[1\]\.result\.final is no number that can be shown: "high"; it is not as unseg evaluate'
    )
    with pytest.raises(UserError, match=f"{said} wrote it"):
        sections_of(tmp_path, broken)


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_without_results_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], there: bool) -> None:
    folder = tmp_path / "none"
    if there:
        folder.mkdir()
    assert cli.main(["report", str(folder)]) == 2
    assert ("no results.json in this folder" if there else "no such file or folder") in capsys.readouterr().err


@pytest.mark.parametrize("name", ["report.html", "report.md", "report-final.svg"])
def test_only_reports_are_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    write(tmp_path, results([run()]))
    assert cli.main(["report", str(tmp_path), "--charts"]) == 0
    assert cli.main(["report", str(tmp_path), "--charts"]) == 0  # its own are
    files = ["report.html", "report.md", "report-final.svg", "report-curves.svg"]
    before = {path: (tmp_path / path).read_bytes() for path in files}
    (tmp_path / name).write_text("mine")
    write(tmp_path, results([run(final=0.8)]))
    assert cli.main(["report", str(tmp_path), "--charts"]) == 2
    assert f"{name}: exists already and is no report of unseg" in capsys.readouterr().err
    assert {path: (tmp_path / path).read_bytes() for path in files} == {**before, name: b"mine"}


def test_out_must_be_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, results([run()]))
    assert cli.main(["report", str(tmp_path), "--out", str(tmp_path / "report.md")]) == 2
    assert "give a name that ends in .html" in capsys.readouterr().err


def test_the_same_files_give_the_same_bytes(tmp_path: Path, full: Path) -> None:
    written = []
    for place in ("here", "there"):
        folder = shutil.copytree(full, tmp_path / place / "full")
        paths = write_report([folder], charts=True).paths
        written.append({path.name: path.read_bytes() for path in paths})
    assert written[0] == written[1]
    assert set(written[0]) == {"report.html", "report.md", "report-final.svg", "report-curves.svg", "report-shares.svg"}


def test_charts_as_files_stand_alone(full: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.html"
    paths = write_report([full], out, charts=True).paths
    listed = (tmp_path / "x.md").read_text(encoding="utf-8")
    for path in (path for path in paths if path.suffix == ".svg"):
        root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
        assert root.tag == "{http://www.w3.org/2000/svg}svg" and root.get("aria-label")
        assert "prefers-color-scheme: dark" in path.read_text(encoding="utf-8") and f"]({path.name})" in listed
        width, height = (float(root.get(side)) for side in ("width", "height"))
        for panel in root.findall("{http://www.w3.org/2000/svg}svg"):
            assert float(panel.get("x")) + float(panel.get("width")) <= width
            assert float(panel.get("y")) + float(panel.get("height")) <= height


def test_nothing_in_the_page_is_fetched_or_run(full: Path) -> None:
    root = read_page(read_sections(full))
    assert {tag.name for tag in root.all()} & {"script", "link", "iframe", "object", "embed", "form", "base"} == set()
    for tag in root.all():
        for name, value in tag.attributes.items():
            assert not name.startswith("on")
            assert name not in ("src", "href") or value.startswith(("data:image/", "#"))
    assert "url(" not in "".join(style.text() for style in root.all("style")) and "@import" not in root.text()
    policy = next(meta for meta in root.all("meta") if meta.attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy.attributes["content"].startswith("default-src 'none'")


# --- in a browser ----------------------------------------------------------------------------------------------------


# The start of every element that reaches beyond the window; tables may, in their boxes.
TOO_WIDE = """[...document.querySelectorAll('main *')]
    .filter(part => !part.closest('.scroll') && !part.closest('svg'))
    .filter(part => part.getBoundingClientRect().right > innerWidth + 1)
    .map(part => part.outerHTML.slice(0, 80))"""


@pytest.mark.slow
@pytest.mark.skipif(PROGRAM is None, reason="there is no Chromium")
def test_the_page_fits_phones_and_screens_and_loads_nothing(tmp_path: Path, full: Path) -> None:
    folder = shutil.copytree(full, tmp_path / "full")
    content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    hostile = copy.deepcopy(content["runs"][:2])
    for i, each in enumerate(hostile):
        each["settings"] |= {
            "network": "W" * 200,
            "condition": f"p{'q' * 90}{i}",
            "train": "<script>document.title='run'</script>" * 9,
        }
        each["result"]["notes"] = ["<img src='http://evil.test/x.png'>" * 5]
    content["runs"] += hostile
    write(folder, content)
    made = write_report([folder]).paths[0]
    with Chromium(tmp_path / "profile") as browser:
        for width, dark in itertools.product((360, 1280), (False, True)):
            browser.open(made, width, dark)
            assert browser.value("document.documentElement.scrollWidth") <= width
            shown = browser.value("getComputedStyle(document.body).backgroundColor")
            assert shown == ("rgb(21, 24, 28)" if dark else "rgb(255, 255, 255)")
            browser.value("document.querySelectorAll('details').forEach(part => part.open = true)")
            assert browser.value("document.documentElement.scrollWidth") <= width
            assert browser.value("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
            assert browser.value("document.images.length") == 51
            assert browser.value(TOO_WIDE) == []
            if width == 360:  # wide tables scroll in a box of their own
                assert browser.value(
                    "[...document.querySelectorAll('.scroll')].some(box => box.scrollWidth > box.clientWidth)"
                )
            picture = tmp_path / f"{width}-{dark}.png"
            browser.screenshot(picture)
            with Image.open(picture) as screenshot:
                assert screenshot.width == width and len(screenshot.convert("RGB").getcolors(2**24)) > 1000
        assert browser.value("document.title") == text_of_title(made)
        assert {address for address in browser.requests if not address.startswith("data:")} == {made.resolve().as_uri()}


def text_of_title(made: Path) -> str:
    return Reader(made.read_text(encoding="utf-8")).root.all("title")[0].text()


def test_columns_without_numbers_are_left_out(tmp_path: Path) -> None:
    section = sections_of(tmp_path, results([run(seconds=None)]))[0]
    assert [column.title for column in text.columns(section)] == [
        "final mIoU",
        "best mIoU",
        "retained learning",
        "seeds",
    ]
    assert text.not_measured(section) == "Not measured: PSNR, SSIM, LPIPS."


def test_example_pictures_of_the_fixture_differ(tmp_path: Path) -> None:
    """So that a page that mixed them up would be noticed."""
    made = pictures(tmp_path, "a", "protected")["examples"][0]
    assert (tmp_path / made["truth"]).read_bytes() != (tmp_path / made["prediction"]).read_bytes()
