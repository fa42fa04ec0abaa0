"""`POST /protect`: one picture in, its protected version out, made by the very run that `unseg protect` makes."""

from __future__ import annotations

import json
import re
import secrets
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Semaphore
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from unseg.errors import UserError
from unseg.method.config import Budget, strength
from unseg.protecting.foreground_models import BY_PAGE, ForegroundModel
from unseg.protecting.manifest import Entry
from unseg.protecting.mask_finding import proposed_mask
from unseg.protecting.objects import WHOLE_IMAGE
from unseg.protecting.request import CANNOT
from unseg.protecting.run import protect
from unseg.protecting.settings import DEFAULTS, ProtectSettings
from unseg.storage.image_headers import bytes_of_image
from unseg.storage.image_limits import ImageError
from unseg.storage.key_file import KEY_BYTES, key_hash
from unseg.web.api_description import FIELDS, FORMATS, as_json, page
from unseg.web.refusals import Refusal
from unseg.web.uploads import FORM_BYTES, IMAGE_BYTES, counted

NAME = "picture"  # of the one picture of a call; its noise does not depend on it
FLAGS = ("find_objects", "whole_image")
SOURCES = ("mask", "boxes", "points", *FLAGS)
IN_PLACE = "send a mask, boxes or points"
OPTIONS = {f"--{name.replace('_', '-')}": name for name in FIELDS} | {"--masks": "mask", "--out": "the answer"}
FORM_LIMIT = 2 * IMAGE_BYTES + FORM_BYTES  # of a picture, its mask and a few words


@dataclass(frozen=True)
class CallOptions:
    """What all calls share.

    folder: for their files. key: of calls that name none. max_pixels: of a picture. turns: of those that are worked on.
    foreground: the network that finds objects.
    """

    folder: Path
    key: bytes
    max_pixels: int
    turns: Semaphore
    foreground: ForegroundModel


@dataclass(frozen=True)
class Call:
    """One call: its words, and the folder that its files are in."""

    folder: Path
    words: dict[str, str]
    files: frozenset[str] = field(default_factory=frozenset)

    def flag(self, name: str) -> bool:
        """Returns a field that is true or false; UserError for other words."""
        word = self.words.get(name, "false")
        if word not in ("true", "false"):
            raise UserError(f"{name}: {word[:40]!r}: give true or false")
        return word == "true"

    def values(self, name: str) -> Any:
        """Returns the JSON of a field; None where it is not given."""
        if name not in self.words:
            return None
        try:
            value = json.loads(self.words[name])
        except (ValueError, RecursionError) as error:
            raise UserError(f"{name}: is no JSON ({error}); {FIELDS[name].told}") from error
        if value is None:
            raise UserError(f"{name}: is null; leave the field out, or: {FIELDS[name].told}")
        return value

    def settings(self, max_pixels: int) -> ProtectSettings:
        """Returns what the run may vary, as the call wants it; UserError names what cannot be."""
        words: dict[str, Any] = {name: self.words[name] for name in ("metadata", "mask_type") if name in self.words}
        form = self.words.get("format", "png")
        if form not in FORMATS:
            raise UserError(f"format {form[:40]}: choose from {', '.join(FORMATS)}")
        words["format"] = form
        return replace(DEFAULTS, budget=self._budget(), workers=1, max_megapixels=max_pixels / 1e6, **words)

    def _budget(self) -> Budget:
        of_word = strength(self.words.get("strength", "standard"), "strength")
        if "epsilon" not in self.words:
            return Budget(of_word)
        try:
            return Budget(float(self.words["epsilon"]))
        except ValueError as error:
            raise UserError(f"epsilon {self.words['epsilon'][:40]}: give a number of grey levels") from error

    def key(self, of_server: bytes) -> bytes:
        """Returns the key of the noise; UserError where the field holds none."""
        try:
            key = bytes.fromhex(self.words["key"]) if "key" in self.words else of_server
        except ValueError:
            key = b""
        if len(key) != KEY_BYTES:
            raise UserError(f"key: give {KEY_BYTES} bytes in hexadecimal digits")
        return key


async def protect_one(request: Request) -> Response:
    """Answers with the protected picture."""
    options: CallOptions = request.app.state.calls
    folder = options.folder / secrets.token_hex(8)
    folder.mkdir(mode=0o700)
    try:
        call = await _received(request, folder)
        key = call.key(options.key)
        entry, data = await run_in_threadpool(_in_turn, options, call, key)
    except UserError as error:
        raise Refusal(getattr(error, "status", 422), _in_words_of_the_form(str(error), folder)) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    is_whole = entry.object == WHOLE_IMAGE and entry.status == "protected"
    headers = {"unseg-status": "whole" if is_whole else entry.status, "unseg-key-hash": key_hash(key)}
    if entry.reason is not None:
        headers["unseg-reason"] = entry.reason
    if entry.psnr is not None:
        headers["unseg-psnr"] = f"{entry.psnr:.2f}"
    return Response(data, media_type=f"image/{call.words.get('format', 'png')}", headers=headers)


def _in_words_of_the_form(line: str, folder: Path) -> str:
    """Returns a line of the command's with the form's fields for options, and without the files of the call."""
    line = line.replace(f"{folder}/", "").replace(BY_PAGE.option, "find_objects").replace(BY_PAGE.otherwise, IN_PLACE)
    line = re.sub(r"--(masks|[a-z]+(?:-[a-z]+)*)", lambda found: OPTIONS.get(found[0], found[0]), line)
    return re.sub(rf"^(\w+) \1\.json(?:: {NAME}\.png)?: ", r"\1: ", line)


async def _received(request: Request, folder: Path) -> Call:
    """Reads the form, and writes its files into the folder."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Refusal(422, "send a form (multipart/form-data) with the field image; see the page `api`")
    body = counted(request, FORM_LIMIT, "the form")
    parser = MultiPartParser(request.headers, body, max_files=2, max_fields=len(FIELDS), max_part_size=FORM_BYTES)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refusal(422, f"the form cannot be read ({error.message.rstrip('.')}); see the page `api`") from error
    try:
        return await run_in_threadpool(_kept, form, folder)
    finally:
        await form.close()


def _kept(form: FormData, folder: Path) -> Call:
    words: dict[str, str] = {}
    files = set[str]()
    for name, value in form.multi_items():
        if name not in FIELDS:
            raise UserError(f"{name[:40]!r}: no such field; there are {', '.join(FIELDS)}")
        if name in words or name in files:
            raise UserError(f"{name}: was sent twice; send it once")
        if isinstance(value, UploadFile) != (FIELDS[name].kind == "file"):
            raise UserError(f"{name}: send it as {'a file' if FIELDS[name].kind == 'file' else 'text'}")
        if isinstance(value, UploadFile):
            files.add(name)
            place = folder / name
            place.mkdir()
            with open(place / f"{NAME}.png", "xb") as file:
                shutil.copyfileobj(value.file, file)
        else:
            words[name] = value
    if "image" not in files:
        raise UserError("image: send the picture as a file in this field")
    return Call(folder, words, frozenset(files))


def _in_turn(options: CallOptions, call: Call, key: bytes) -> tuple[Entry, bytes]:
    with options.turns:
        return _protected(call, options, key)


def _sources(call: Call) -> list[str]:
    """Returns which field says what the object is; UserError unless it is exactly one."""
    given = [source for source in SOURCES if source in call.files or (source not in FLAGS and source in call.words)]
    given += [flag for flag in FLAGS if call.flag(flag)]
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)}: send one of them, each says what the object is")
    if not given:
        raise UserError(
            f"what is the object? Send mask, boxes, points or find_objects=true; or whole_image=true, {CANNOT}"
        )
    return given


def _with_found(call: Call, foreground: ForegroundModel, settings: ProtectSettings) -> ProtectSettings:
    """Writes the mask that a network finds in the place of one that is sent, and returns settings that take it so."""
    if "mask_type" in call.words:
        raise UserError("mask_type: is for a mask of your own, not for find_objects; leave it out")
    try:
        _, found, data = proposed_mask(call.folder / "image" / f"{NAME}.png", foreground, settings)
    except ImageError as error:
        raise UserError(f"the picture is not protected: {error.reason}") from error
    if found.unclear is not None:
        raise UserError(f"the picture is not protected: no clear foreground ({found.unclear}); {IN_PLACE}")
    (call.folder / "mask").mkdir()
    (call.folder / "mask" / f"{NAME}.png").write_bytes(data)
    return replace(settings, mask_type="soft", mask_frame="upright")


def _protected(call: Call, options: CallOptions, key: bytes) -> tuple[Entry, bytes]:
    """Returns the line that a run's manifest has of the picture, and its protected file."""
    name = f"{NAME}.png"  # whatever kind it is of: files are told by their content
    given = _sources(call)
    settings = call.settings(options.max_pixels)
    if "find_objects" in given:
        settings = _with_found(call, options.foreground, settings)
    for source in ("boxes", "points"):
        values = call.values(source)
        if values is not None:
            text = json.dumps({name: values})
            (call.folder / f"{source}.json").write_text(text, encoding="utf-8")
    paths = {f"{source}.json": call.folder / f"{source}.json" for source in ("boxes", "points") if source in given}
    summary = protect(
        [call.folder / "image" / name],
        call.folder / "out",
        settings,
        masks=call.folder / "mask" if given[0] in ("mask", "find_objects") else None,
        boxes=paths.get("boxes.json"),
        refine_boxes=call.flag("refine_boxes"),
        points=paths.get("points.json"),
        whole_image="whole_image" in given,
        key=key,
    )
    (entry,) = summary.entries
    if entry.output is None or not entry.is_written:
        raise UserError(f"the picture is not protected: {entry.reason}")
    return entry, bytes_of_image(call.folder / "out" / entry.output, options.max_pixels)


async def show_openapi(request: Request) -> Response:
    """Answers with the description that programs read."""
    return Response(as_json(), media_type="application/json")


async def show_page(request: Request) -> Response:
    """Answers with the description that people read."""
    return HTMLResponse(page())


ROUTES = [
    Route("/protect", protect_one, methods=["POST"]),
    Route("/openapi.json", show_openapi, methods=["GET"]),
    Route("/api", show_page, methods=["GET"]),
]
