#!/usr/bin/env python3
"""Check a training folder before a long run: what is there, what does not pair up, what cannot be read or used.

    python utils/check_data.py data/hqseg
    python utils/check_data.py data/my_set --json report.json

It reads HQSeg-44K's folders or a plain folder (data/README.md) and decodes every image and mask: HQSeg-44K's 44,320
training pairs take minutes; --quick looks at names alone. It writes nothing but the report. It finds missing sets,
images without a mask, masks without an image, files that are broken or no masks, masks of another size than their
image, and empty masks. The exit code is 0 if there is nothing to complain of, 1 if there is, 2 if the check could not
start, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from unseg.compute.threads import cores
from unseg.counts import count_of
from unseg.data.catalog import HQSEG, MISSING_SET, Pair, hqseg_root, pair_plain, pair_set
from unseg.data.samples import Problem
from unseg.data.training_data import read_training_image
from unseg.errors import UserError
from unseg.storage.files import write_bytes
from unseg.storage.image_limits import ImageError

EMPTY = "mask without an object pixel"
PLAIN = "images"


@dataclass(frozen=True)
class SetReport:
    """What was found of one set.

    name: of the set, "images" for a plain folder. role: train, validation or "". published: pairs it should have, or 0.
    """

    name: str
    role: str
    pairs: list[Pair]
    problems: list[Problem]
    published: int = 0


def find_sets(root: Path) -> list[SetReport]:
    """Returns the sets under `root` with what does not pair up; UserError where `root` is neither kind of folder."""
    base = hqseg_root(root)
    if base is None:
        return [SetReport(PLAIN, "", *pair_plain(root))]
    return [SetReport(row.name, row.role, *pair_set(base, row), row.count) for row in HQSEG]


def examine(pair: Pair) -> list[Problem]:
    """Reads one pair and returns what is wrong with it."""
    try:
        sample = read_training_image(pair)
    except ImageError as error:
        return [Problem(pair.name, f"{Path(error.path).name}: {error.reason}")]
    empty = [Path(path).name for path, label in zip(pair.masks, sample.labels, strict=True) if not label.any()]
    return [Problem(pair.name, f"{EMPTY} ({name})") for name in empty]


def examine_all(pairs: list[Pair], threads: int) -> Iterator[list[Problem]]:
    """Yields what is wrong with each pair, in order."""
    executor = ThreadPoolExecutor(threads)
    try:
        yield from tqdm(executor.map(examine, pairs), total=len(pairs), unit="pair", disable=not sys.stderr.isatty())
    finally:
        executor.shutdown(cancel_futures=True)  # Ctrl-C waits for the pairs at hand only


def check(root: Path, quick: bool, threads: int) -> list[SetReport]:
    """Returns the sets with all their problems. quick: without reading the files."""
    sets = find_sets(root)
    if not quick:
        faults = examine_all([pair for part in sets for pair in part.pairs], threads)
        for part in sets:
            part.problems.extend(problem for _ in part.pairs for problem in next(faults))
    return sets


def as_json(root: Path, sets: list[SetReport]) -> dict[str, object]:
    """Returns the report as `--json` writes it."""
    return {
        "root": str(root),
        "pairs": sum(len(part.pairs) for part in sets),
        "problems": sum(len(part.problems) for part in sets),
        "sets": [
            {
                "name": part.name,
                "role": part.role,
                "pairs": len(part.pairs),
                "published": part.published or None,
                "problems": [{"name": problem.name, "reason": problem.reason} for problem in part.problems],
            }
            for part in sets
        ],
    }


def as_text(sets: list[SetReport]) -> Iterator[str]:
    """Yields the report's lines: one a set, one a problem, and the sum."""
    for part in sets:
        missing = any(problem.reason == MISSING_SET for problem in part.problems)
        count = "missing" if missing else count_of(len(part.pairs), "pair")
        if part.published and not missing and len(part.pairs) != part.published:
            count += f" (published: {part.published:,})"
        faults = len(part.problems) - missing
        yield f"{part.name:<16} {part.role:<10} {count}" + (f", {count_of(faults, 'problem')}" if faults else "")
    for part in sets:
        yield from (f"{problem.name}: {problem.reason}" for problem in part.problems)
    total = sum(len(part.problems) for part in sets)
    yield count_of(total, "problem") if total else "nothing to complain of"


def main() -> int:
    """Runs the check on the command line's arguments and returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="the data root, as for training")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the report as JSON; - prints it instead of the text"
    )
    parser.add_argument("--quick", action="store_true", help="names only: no file is read")
    parser.add_argument("--threads", type=int, default=cores())
    options = parser.parse_args()
    try:
        if options.threads < 1:
            raise UserError(f"--threads {options.threads}: give a whole number from 1")
        to_file = options.json is not None and str(options.json) != "-"
        if to_file and options.json.exists():
            raise UserError(f"--json {options.json}: exists already; give another name, or move it away")
        sets = check(options.root, options.quick, options.threads)
        report = json.dumps(as_json(options.root, sets), indent=1, ensure_ascii=False)
        if to_file:
            write_report(options.json, report + "\n")
    except UserError as error:
        print(f"check_data: error: {error}".encode(errors="backslashreplace").decode(), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("check_data: interrupted", file=sys.stderr)
        return 130
    printed = [report] if str(options.json) == "-" else as_text(sets)
    for line in printed:
        print(line.encode(errors="backslashreplace").decode())  # file names may hold stray bytes
    return int(any(part.problems for part in sets))


def write_report(path: Path, text: str) -> None:
    """Writes the report; a UserError says where the disk does not take it."""
    try:
        write_bytes(path, text.encode(errors="backslashreplace"))
    except OSError as error:
        raise UserError(
            f"--json {path}: cannot be written ({error.strerror or error}); check space and permissions"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
