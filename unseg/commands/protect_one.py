"""unseg protect with one image: from a file or standard input to a file or standard output, without a manifest."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unseg.commands.console import Terminal, quiet_decoders
from unseg.commands.protect_summary import ALL_OVER
from unseg.commands.streams import write_binary
from unseg.compute.interrupts import in_good_order
from unseg.errors import UserError
from unseg.storage.files import refuse_existing, write_durably
from unseg.storage.image_limits import IMAGE_SUFFIXES
from unseg.storage.mirror import is_url
from unseg.storage.picture_kinds import is_picture_name

if TYPE_CHECKING:
    from unseg.protecting.lone_image import LoneImage
    from unseg.protecting.settings import ProtectSettings

STREAM = Path("-")
STANDARD_INPUT = "standard input"
NOT_KEPT = "key: drawn for this image alone, and not kept: with --key FILE it is, for the same noise on later images"
OF_NAMES = ("--masks", "--annotations")  # which find what belongs to an image by its name
OF_A_MANIFEST = ("input_root", "mask_root")  # which its place makes sense of


def is_one(inputs: list[Path], out: Path | None) -> bool:
    """Returns whether a call is about one image by itself: standard input or output, or a file to a file."""
    if STREAM in inputs or out == STREAM:
        return True
    if out is None or out.is_dir() or out.suffix.lower() not in IMAGE_SUFFIXES:
        return False
    return len(inputs) == 1 and (inputs[0].is_file() or (is_url(inputs[0]) and is_picture_name(inputs[0])))


def check_for_one(inputs: list[Path], out: Path | None, for_folders: Mapping[str, bool]) -> None:
    """Raises UserError where one image by itself cannot be read or written so.

    for_folders: options that are for folders, and whether each is given.
    """
    if len(inputs) != 1:
        told = "is one image: name nothing beside it" if STREAM in inputs else "takes one image: name its file, or -"
        raise UserError(f"{'standard input' if STREAM in inputs else 'standard output'}: {told}")
    for place in (*inputs, out):
        if is_url(place):
            raise UserError(f"{place}: one image by itself is on this machine; give --out a folder, or copy the image")
    for option, given in for_folders.items():
        if given:
            raise UserError(f"{option}: is for folders of images; {_in_place_of(option, STREAM in inputs)}")
    if inputs[0] != STREAM and not inputs[0].is_file():
        raise UserError(f"{inputs[0]}: no such file; give one image")
    if out is None or out == STREAM:
        if sys.stdout.isatty():
            raise UserError("standard output: is a terminal, which shows no image; send it to a file: > protected.png")
    elif out.is_dir() or out.suffix.lower() not in IMAGE_SUFFIXES:
        raise UserError(f"--out {out}: {STANDARD_INPUT} has no name; give a file, such as protected.png")
    else:
        refuse_existing([out])


def _check_key(key: Path | None, out: Path | None) -> None:
    if key is not None and out is not None and os.path.realpath(key) == os.path.realpath(out):
        raise UserError(f"--key {key}: is the file of --out; give the key a place of its own")


def _in_place_of(option: str, nameless: bool) -> str:
    """Returns the remedy for an option that is for folders. nameless: the image comes from standard input."""
    if not nameless:
        return "leave it out, or give --out a folder"
    if option in OF_NAMES:
        return f"{STANDARD_INPUT} has no name that could be looked up in it; give --mask, --boxes or --points"
    return f"leave it out, or name a file in place of {STANDARD_INPUT} and a folder with --out"


def format_of(asked: str | None, out: Path | None) -> str:
    """Returns the format of a file: the one asked for, else that of its name, else PNG; UserError where they differ."""
    from unseg.protecting.outputs import SUFFIXES

    if out is None or out == STREAM:
        return asked or "png"
    by_name = next((form for form, suffixes in SUFFIXES.items() if out.suffix.lower() in suffixes), None)
    if asked is not None:
        if by_name != asked:
            raise UserError(f"--out {out}: --format {asked} asks for a name that ends with {SUFFIXES[asked][0]}")
        return asked
    if by_name is None:
        raise UserError(f"--out {out}: is not written; give a name that ends with .png, .tif or .webp")
    if by_name == "jpeg":
        raise UserError(f"--out {out}: JPEG changes values beyond the budget; name it .png, or ask for --format jpeg")
    return by_name


@dataclass(frozen=True)
class OneImage:
    """One image on its way.

    inputs: its file, or `STREAM`. out: the file to write; None or `STREAM` is standard output. hints: what is said of
    objects, codes and key, by the names of `unseg.protecting.request.Request`.
    """

    inputs: list[Path]
    out: Path | None
    hints: Mapping[str, Any]
    settings: ProtectSettings

    def protect(self, terminal: Terminal, as_json: bool) -> int:
        """Protects and writes the image, and returns the exit code; what is told goes to standard error."""
        from unseg.protecting.lone_image import protect_alone
        from unseg.protecting.request import Request

        with in_good_order(), quiet_decoders():
            request = Request(tuple(self.inputs), Path(os.devnull), self.settings, **self.hints)
            if request.is_in_stores:
                raise UserError(
                    "one image by itself is protected on this machine; copy its mask or its annotations there"
                )
            _check_key(self.hints["key"], self._file)
            data = None
            if STREAM in self.inputs:
                data = _standard_input(self.settings.max_pixels)
                request = replace(request, inputs=())
            if request.kind == "codes":
                request = replace(request, key=self._key(terminal))
            made = protect_alone(request, _WithoutBars(terminal), data, STANDARD_INPUT)
            if made.data is not None:
                self._write(made.data)
                if request.kind == "codes" and self.hints["key"] is None and made.entry.is_written:
                    terminal.say(NOT_KEPT)
            self._tell(made, terminal, as_json)
            return int(made.entry.status != "protected")

    def _key(self, terminal: Terminal) -> bytes:
        """Returns the key of this image: from its file, which is made where there is none; or one that is not kept."""
        from unseg.protecting.manifest import refuse_published_key
        from unseg.storage.key_file import new_key, read_key, write_key

        path: Path | None = self.hints["key"]
        if path is None:  # beside the image it might be published with it
            return new_key()
        if not os.path.lexists(path):
            refuse_published_key(path)
            try:
                write_key(path, new_key())
                terminal.say(f"key: drawn, and kept in {path}: keep it for later images, and do not publish it")
            except UserError:
                if not os.path.lexists(path):  # else another process, which began together with this one, made it
                    raise
        return read_key(path)

    @property
    def _file(self) -> Path | None:
        return None if self.out == STREAM else self.out

    def _write(self, data: bytes) -> None:
        if self._file is None:
            write_binary(data)
        else:
            refuse_existing([self._file])
            write_durably(self._file, data)

    def _tell(self, made: LoneImage, terminal: Terminal, as_json: bool) -> None:
        entry = made.entry
        if as_json:
            facts = {"ok": entry.status == "protected", **asdict(entry)}
            facts["output"] = str(self.out or STREAM) if made.data else None
            facts["noise_all_over"] = True if entry.is_all_over else None
            facts = {name: value for name, value in facts.items() if value is not None and name not in OF_A_MANIFEST}
            print(json.dumps(facts, indent=1), file=sys.stderr if self._file is None else sys.stdout)
            return
        ratio = "" if entry.psnr is None else f", PSNR {entry.psnr:.1f} dB"
        seen = "" if entry.delta_e is None else f", ΔE2000 {entry.delta_e:.2f}, S-CIELAB {entry.s_cielab:.2f} on it"
        seen += "" if entry.ssim is None else f", SSIM {entry.ssim:.3f}"
        why = "" if entry.reason is None else f": {entry.reason}"
        share = "" if entry.object_share is None else f"; object {entry.object_share:.0%} of the image"
        breach = "" if not entry.over_budget else f"; {entry.over_budget:.2%} of the values are beyond the budget"
        told = "left out, and nothing is written" if made.data is None else entry.status
        terminal.console.print(f"{entry.input}: {told}{why}{share}{ratio}{seen}{breach}", markup=False, soft_wrap=True)
        if entry.note:
            terminal.say(f"note: {entry.note}")
        if entry.is_all_over:
            terminal.say(f"note: the noise is {ALL_OVER}")


class _WithoutBars:
    """The sentences of a terminal: one image is done before a bar is read."""

    def __init__(self, terminal: Terminal) -> None:
        from unseg.compute.progress import SILENT

        self.say, self.bar = terminal.say, SILENT.bar


def _standard_input(max_pixels: int) -> bytes:
    from unseg.storage.image_headers import bytes_of_stream

    if sys.stdin is None or sys.stdin.closed:
        raise UserError(f"{STANDARD_INPUT}: is closed; give it an image: < photo.jpg")
    if sys.stdin.isatty():
        raise UserError(f"{STANDARD_INPUT}: is a terminal; give it an image: < photo.jpg")
    return bytes_of_stream(sys.stdin.buffer, Path(STANDARD_INPUT), max_pixels)
