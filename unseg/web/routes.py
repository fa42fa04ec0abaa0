"""What the page asks of its server: a tab, its pictures, their objects, and the files that are made of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from unseg.method.config import STRENGTHS
from unseg.protecting.auto_masks import propose
from unseg.protecting.foreground_models import BY_PAGE, ForegroundModel
from unseg.protecting.given_images import read_given_boxes
from unseg.protecting.grabcut import outline_of_boxes
from unseg.protecting.request import CANNOT
from unseg.storage.image_decoding import Image, eight_bit_rgb
from unseg.storage.image_encoding import encode_png
from unseg.storage.image_limits import IMAGE_SUFFIXES, ImageError
from unseg.storage.panels import NOISE_GAIN, noise_panel
from unseg.web.archives import unpacked
from unseg.web.darkroom import Changed, Darkroom, file_of, original_file
from unseg.web.refusals import Refusal
from unseg.web.result_files import KEY, PRIVATE, PUBLIC, Order
from unseg.web.tabs import Tab, Tabs
from unseg.web.uploaded_picture import MOST_OBJECTS, Picture, runs_of
from unseg.web.uploads import ARCHIVE_BYTES, FORM_BYTES, IMAGE_BYTES, body_to_file, read_body, relative_name
from unseg.web.verdict import looks, verdict

KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
MEDIA = {"png": "image/png", "webp": "image/webp"}
THUMBNAIL = 96  # pixels of the long side
RUNS = "application/octet-stream"


@dataclass(frozen=True)
class State:
    """What all requests share. max_pixels: larger pictures are refused. foreground: the network that finds objects."""

    tabs: Tabs
    darkroom: Darkroom
    max_pixels: int
    foreground: ForegroundModel


def page_files() -> dict[str, tuple[bytes, str]]:
    """Returns the page's own files: name → content and media type."""
    folder = resources.files("unseg.web") / "static"
    return {
        file.name: (file.read_bytes(), KINDS[PurePosixPath(file.name).suffix])
        for file in folder.iterdir()
        if PurePosixPath(file.name).suffix in KINDS
    }


def page_routes() -> list[Route]:
    """Returns the routes of the page itself."""

    def answering(content: bytes, kind: str) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            return Response(content, media_type=kind)

        return answer

    files = {("" if name == "index.html" else name): found for name, found in page_files().items()}
    return [Route(f"/{name}", answering(*found), methods=["GET"]) for name, found in files.items()]


def _state(request: Request) -> State:
    return request.app.state.shared


def _tab(request: Request) -> Tab:
    return _state(request).tabs.get(request.path_params["tab"])


def _picture(request: Request) -> tuple[Tab, Picture]:
    tab = _tab(request)
    return tab, tab.picture(request.path_params["number"])


# --- tabs


async def open_tab(request: Request) -> Response:
    """Opens a tab, and tells the page what it needs to know."""
    tab = _state(request).tabs.open()
    facts = {
        "strengths": STRENGTHS,
        "whole_image": CANNOT,
        "noise_gain": NOISE_GAIN,
        "suffixes": IMAGE_SUFFIXES,
        "most_bytes": {"image": IMAGE_BYTES, "archive": ARCHIVE_BYTES},
        "most_pixels": _state(request).max_pixels,
        "most_objects": MOST_OBJECTS,
    }
    return JSONResponse({**tab.as_json(), **facts}, 201)


async def keep_alive(request: Request) -> Response:
    """Takes a sign of life."""
    _tab(request)
    return Response(status_code=204)


async def close_tab(request: Request) -> Response:
    """Removes everything of a tab."""
    await run_in_threadpool(_state(request).tabs.close, request.path_params["tab"])
    return Response(status_code=204)


async def key_file(request: Request) -> Response:
    """Answers with the key of the tab's noise, as `--key` takes it."""
    return _download(f"{_tab(request).key.hex()}\n".encode(), "text/plain", KEY)


# --- pictures


async def add_picture(request: Request) -> Response:
    """Takes a picture: the body is its file, `name` its name."""
    tab, name = _tab(request), relative_name(request.query_params.get("name", ""))
    path = tab.new_file()
    try:
        await body_to_file(request, path, min(IMAGE_BYTES, tab.room()), name)
        picture = await run_in_threadpool(tab.add, name, path)
    finally:
        path.unlink(missing_ok=True)
    return JSONResponse(picture.as_json(), 201)


async def add_archive(request: Request) -> Response:
    """Takes a zip file of pictures; the answer names what was left out of it, and why."""
    tab, name = _tab(request), relative_name(request.query_params.get("name", ""))
    path = tab.new_file()
    try:
        await body_to_file(request, path, ARCHIVE_BYTES, name)
        pictures, left_out = await run_in_threadpool(_unpack, tab, path, name)
    finally:
        path.unlink(missing_ok=True)
    return JSONResponse({"pictures": pictures, "left_out": left_out}, 201)


def _unpack(tab: Tab, path: Any, name: str) -> tuple[list[object], list[object]]:
    pictures: list[object] = []
    left_out: list[object] = []
    folder = path.with_name(f"{path.name}-members")
    folder.mkdir()
    for found in unpacked(path, name, folder, tab.room):
        try:
            if found.path is not None:
                pictures.append(tab.add(found.name, found.path).as_json())
            else:
                left_out.append({"name": found.name, "reason": found.reason})
        except ImageError as error:
            left_out.append({"name": found.name, "reason": error.reason})
            if found.path is not None:
                found.path.unlink(missing_ok=True)
    return pictures, left_out


async def remove_picture(request: Request) -> Response:
    """Removes a picture."""
    tab, picture = _picture(request)
    await run_in_threadpool(tab.remove, picture.number)
    return Response(status_code=204)


async def show_original(request: Request) -> Response:
    """Answers with the picture as it is, as PNG."""
    _, picture = _picture(request)
    image = await run_in_threadpool(_state(request).darkroom.image, picture)
    return Response(await run_in_threadpool(original_file, image, picture.name), media_type="image/png")


def _thumbnail(image: Image) -> bytes:
    height, width = image.samples.shape[:2]
    scale = THUMBNAIL / max(height, width, THUMBNAIL)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image.samples, size, interpolation=cv2.INTER_AREA).reshape(size[1], size[0], -1)
    return encode_png(eight_bit_rgb(small))


async def show_thumbnail(request: Request) -> Response:
    """Answers with a small picture."""
    _, picture = _picture(request)
    image = await run_in_threadpool(_state(request).darkroom.image, picture)
    return Response(await run_in_threadpool(_thumbnail, image), media_type="image/png")


# --- objects


async def find_outline(request: Request) -> Response:
    """Answers with what GrabCut finds in a box, as runs; `found` in the header Unseg-Outline, or `filled`."""
    _, picture = _picture(request)
    box = _json(await read_body(request, FORM_BYTES, "the box")).get("box")
    boxes = read_given_boxes([box] if box is not None else [])
    image = await run_in_threadpool(_state(request).darkroom.image, picture)
    runs, filled = await run_in_threadpool(_outline, image, boxes)
    return Response(runs, media_type=RUNS, headers={"unseg-outline": "filled" if filled else "found"})


def _outline(image: Image, boxes: list[list[float]]) -> tuple[bytes, int]:
    mask_HW, filled = outline_of_boxes(image.samples, boxes)
    return runs_of(mask_HW.view(np.uint8)), filled


async def find_objects(request: Request) -> Response:
    """Answers with the objects that `--masks auto` finds, as runs, numbered from 1, the largest first."""
    _, picture = _picture(request)
    image = await run_in_threadpool(_state(request).darkroom.image, picture)
    runs = await run_in_threadpool(_proposals, image, picture.name, _state(request).foreground)
    return Response(runs, media_type=RUNS)


def _proposals(image: Image, name: str, network: ForegroundModel) -> bytes:
    found = propose(image.pixels, network)
    if found.unclear is not None:
        raise Refusal(422, f"{name}: no clear foreground ({found.unclear}); {BY_PAGE.otherwise}")
    return runs_of(found.numbers(*image.samples.shape[:2]))


async def put_object(request: Request) -> Response:
    """Takes the objects of a picture, as runs, or all of it (`?whole=1`)."""
    _, picture = _picture(request)
    if request.query_params.get("whole") == "1":
        picture.whole, picture.runs = True, None
    else:
        runs = await read_body(request, picture.most_bytes, "the object")
        await run_in_threadpool(picture.mark, runs)
    return JSONResponse(picture.as_json())


async def show_mask(request: Request) -> Response:
    """Answers with the objects as a mask that `unseg protect --masks --mask-type index` takes."""
    _, picture = _picture(request)
    data = await run_in_threadpool(picture.mask_file)
    return _download(data, "image/png", f"{PurePosixPath(picture.stem).name}.png")


def _json(data: bytes) -> dict[str, Any]:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Refusal(422, f"the request is no JSON ({error}); send an object") from error
    if not isinstance(values, dict):
        raise Refusal(422, "the request is no JSON object; send one")
    return values


# --- what is made of them


def _changed(request: Request) -> tuple[Picture, Changed]:
    tab, picture = _picture(request)
    word = request.query_params.get("strength", "standard")
    return picture, _state(request).darkroom.changed(picture, word, tab.key)


async def show_protected(request: Request) -> Response:
    """Answers with the protected picture: exactly the file that the command writes."""
    form = request.path_params["form"]
    if form not in MEDIA:
        raise Refusal(404, f"no format {form[:20]!r}; choose from {', '.join(MEDIA)}")
    picture, changed = await run_in_threadpool(_changed, request)
    data = await run_in_threadpool(file_of, changed, form, picture.name)
    if "download" not in request.query_params:
        return Response(data, media_type=MEDIA[form])
    return _download(data, MEDIA[form], f"{PurePosixPath(picture.stem).name}.{form}")


async def show_noise(request: Request) -> Response:
    """Answers with the noise, enlarged around grey."""
    _, changed = await run_in_threadpool(_changed, request)
    return Response(await run_in_threadpool(_noise, changed), media_type="image/png")


def _noise(changed: Changed) -> bytes:
    before, after = (eight_bit_rgb(samples) for samples in (changed.original.samples, changed.samples_HWC))
    return encode_png(noise_panel(after.astype(np.int16) - before, NOISE_GAIN))


async def show_verdict(request: Request) -> Response:
    """Answers with what changed, in figures and words."""
    picture, changed = await run_in_threadpool(_changed, request)
    return JSONResponse(await run_in_threadpool(verdict, changed, picture.whole))


async def show_looks(request: Request) -> Response:
    """Answers with how much of the noise an eye can see; an empty object where that cannot be said."""
    _, changed = await run_in_threadpool(_changed, request)
    return JSONResponse(await run_in_threadpool(looks, changed))


async def make_files(request: Request) -> Response:
    """Begins to make the files of all pictures that have an object."""
    tab, wanted = _tab(request), _json(await read_body(request, FORM_BYTES, "the request"))
    there = list(tab.pictures.values())
    pictures, unmarked = ([one for one in there if one.is_marked is marked] for marked in (True, False))
    form: Any = wanted.get("format", "png")  # of a few; Order refuses others
    names = [picture.name for picture in unmarked]
    order = Order(pictures, str(wanted.get("strength", "standard")), form, names)
    return JSONResponse(tab.results.make(order, _state(request).max_pixels).as_json(), 202)


async def show_making(request: Request) -> Response:
    """Answers with how far the files are."""
    making = _tab(request).results.making
    if making is None:
        raise Refusal(409, "no files are being made")
    return JSONResponse(making.as_json())


async def fetch_files(request: Request) -> Response:
    """Answers with a zip that was made."""
    name = f"{request.path_params['name']}.zip"
    if name not in (PUBLIC, PRIVATE):
        raise Refusal(404, f"no such file; there are {PUBLIC} and {PRIVATE}")
    return FileResponse(_tab(request).results.file(name), media_type="application/zip", filename=name)


def _download(data: bytes, kind: str, name: str) -> Response:
    headers = {"content-disposition": f"attachment; filename*=utf-8''{quote(name)}"}
    return Response(data, media_type=kind, headers=headers)


TAB = "/tabs/{tab:str}"
PICTURE = TAB + "/pictures/{number:int}"
ROUTES = [
    Route("/tabs", open_tab, methods=["POST"]),
    Route(f"{TAB}/alive", keep_alive, methods=["POST"]),
    Route(f"{TAB}/close", close_tab, methods=["POST"]),
    Route(f"{TAB}/key", key_file, methods=["GET"]),
    Route(f"{TAB}/pictures", add_picture, methods=["POST"]),
    Route(f"{TAB}/archives", add_archive, methods=["POST"]),
    Route(PICTURE, remove_picture, methods=["DELETE"]),
    Route(f"{PICTURE}/original.png", show_original, methods=["GET"]),
    Route(f"{PICTURE}/thumbnail.png", show_thumbnail, methods=["GET"]),
    Route(f"{PICTURE}/outline", find_outline, methods=["POST"]),
    Route(f"{PICTURE}/objects", find_objects, methods=["POST"]),
    Route(f"{PICTURE}/object", put_object, methods=["PUT"]),
    Route(f"{PICTURE}/mask.png", show_mask, methods=["GET"]),
    Route(PICTURE + "/protected.{form:str}", show_protected, methods=["GET"]),
    Route(f"{PICTURE}/noise.png", show_noise, methods=["GET"]),
    Route(f"{PICTURE}/verdict", show_verdict, methods=["GET"]),
    Route(f"{PICTURE}/looks", show_looks, methods=["GET"]),
    Route(f"{TAB}/files", make_files, methods=["POST"]),
    Route(f"{TAB}/files", show_making, methods=["GET"]),
    Route(TAB + "/{name:str}.zip", fetch_files, methods=["GET"]),
]
