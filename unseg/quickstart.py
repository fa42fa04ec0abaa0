"""The quick start: protects photographs that ship with the package, and draws one picture a photograph.

`python -m unseg.quickstart [FOLDER]` does with the `unseg` command what a user would do with a folder of their own.
"""

from __future__ import annotations

import sys
from importlib import resources
from pathlib import Path

from unseg import cli
from unseg.compute import interrupts
from unseg.errors import UserError

PHOTOGRAPHS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")


def copy_photographs(folder: Path) -> None:
    """Copies the photographs into FOLDER/photographs and their masks into FOLDER/masks, byte for byte."""
    for kind in ("photographs", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name in PHOTOGRAPHS:
            file = name if kind == "photographs" else Path(name).with_suffix(".png").name
            source = resources.files("unseg") / "quickstart_data" / kind / file
            if not source.is_file():
                raise UserError(f"{source}: is missing from this installation; install UnSeg again")
            (folder / kind / file).write_bytes(source.read_bytes())


def forget_earlier(folder: Path) -> None:
    """Removes what an earlier quick start wrote into FOLDER/protected, and nothing else: this one protects anew."""
    from unseg.protecting.manifest import MANIFEST, read_manifest

    protected = folder / "protected"
    earlier = read_manifest(protected)
    if earlier is None:
        return
    strangers = [entry.input for entry in earlier.entries.values() if entry.input not in PHOTOGRAPHS]
    if strangers:
        raise UserError(f"{protected}: other protected images are there ({strangers[0]}); give another folder")
    for entry in earlier.entries.values():
        for name in entry.owned:
            (protected / name).unlink(missing_ok=True)
    (protected / MANIFEST).unlink()


def draw_pictures(folder: Path) -> list[Path]:
    """Draws FOLDER/pictures/NAME.png for every photograph: original, unlearnable version, noise × 16, mask."""
    from unseg.storage.image_decoding import read_image
    from unseg.storage.image_encoding import write_png
    from unseg.storage.label_decoding import read_label
    from unseg.storage.panels import before_after_noise_mask

    pictures = []
    for name in PHOTOGRAPHS:
        as_png = Path(name).with_suffix(".png").name
        original = read_image(folder / "photographs" / name).pixels
        unlearnable = read_image(folder / "protected" / as_png).pixels
        mask = read_label(folder / "masks" / as_png) == 1
        pictures.append(folder / "pictures" / as_png)
        write_png(pictures[-1], before_after_noise_mask(original, unlearnable, mask))
    return pictures


def run(folder: Path) -> int:
    """Runs the whole quick start in `folder`; returns the exit code of the first command that fails, or 0."""
    forget_earlier(folder)
    copy_photographs(folder)
    commands = (
        ["protect", f"{folder / 'photographs'}", "--masks", f"{folder / 'masks'}", "--out", f"{folder / 'protected'}"],
        ["verify", f"{folder / 'protected'}"],
    )
    for command in commands:
        print(f"\n$ unseg {' '.join(command)}", flush=True)
        code = cli.main(command)
        if code != 0:
            return code
    print("\nOriginal, unlearnable version, noise × 16 and mask, side by side:")
    for picture in draw_pictures(folder):
        print(f"  {picture}")
    print(
        f"The protected photographs are in {folder / 'protected'}. For your own:"
        " unseg protect IMAGES --masks MASKS --out DIR"
    )
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs `python -m unseg.quickstart [FOLDER]` and returns its exit code."""
    if arguments is None:
        interrupts.end_at_once()
        arguments = sys.argv[1:]
    if len(arguments) > 1 or any(argument.startswith("-") for argument in arguments):
        print("usage: python -m unseg.quickstart [FOLDER]", file=sys.stderr)
        return 2
    try:
        return run(Path(*arguments) if arguments else Path("quickstart"))
    except UserError as error:
        print(f"unseg: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
