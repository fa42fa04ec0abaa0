"""The HTTP interface in words: as OpenAPI, which programs read, and as a page, which loads nothing."""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass
from typing import Any

from unseg import __version__
from unseg.method.config import STRENGTHS
from unseg.protecting.request import CANNOT
from unseg.storage.key_file import KEY_BYTES

FORMATS = ("png", "webp", "tiff")
SUMMARY = "Makes one picture unlearnable to segmentation models, as `unseg protect` does it."
AUTHORITY = (
    "Send requests to the address that `unseg web` printed, whose path begins with a token. There is no other address:"
    " the server listens on 127.0.0.1 alone, and answers pages of other sites with 403."
)


@dataclass(frozen=True)
class Field:
    """A field of the form that `POST /protect` takes. kind: file, text, number or flag. choices: where they are few."""

    kind: str
    told: str
    choices: tuple[str, ...] = ()

    def schema(self) -> dict[str, Any]:
        """Returns the field as OpenAPI describes it."""
        kinds: dict[str, dict[str, Any]] = {
            "file": {"type": "string", "format": "binary"},
            "text": {"type": "string"},
            "number": {"type": "number"},
            "flag": {"type": "string", "enum": ["true", "false"]},
        }
        return {**kinds[self.kind], "description": self.told, **({"enum": list(self.choices)} if self.choices else {})}


FIELDS = {
    "image": Field("file", "The picture: JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF, or HEIC where its reader is there."),
    "mask": Field("file", "What the object is: a picture of its size. Or boxes, points, find_objects, whole_image."),
    "mask_type": Field("text", "What the mask holds.", ("auto", "binary", "soft", "trimap", "index")),
    "boxes": Field("text", "In place of a mask: JSON, [[x1, y1, x2, y2], …] in pixels, corners inclusive."),
    "refine_boxes": Field("flag", "The object is what GrabCut finds in each box."),
    "points": Field("text", "In place of a mask: JSON, [[x, y], …] on the object, whose outline GrabCut finds."),
    "find_objects": Field(
        "flag", "In place of a mask: what `unseg protect --masks auto` finds. Its network must be on this machine."
    ),
    "whole_image": Field("flag", f"In place of a mask: noise over the whole image, {CANNOT}."),
    "strength": Field("text", "How much values of the object may change.", tuple(STRENGTHS)),
    "epsilon": Field("number", "The same as a number of grey levels of 255, in place of strength."),
    "format": Field("text", "Of the answer; webp is lossless.", FORMATS),
    "metadata": Field(
        "text", "What is kept: the colour profile alone, EXIF and XMP too, or nothing.", ("icc", "keep", "none")
    ),
    "key": Field(
        "text", f"{KEY_BYTES} bytes in hexadecimal digits. Default: the key of the server, see `unseg web --key`."
    ),
}
HEADERS = {
    "Unseg-Status": "protected; weak: the object changed too little or is too small; whole: noise over the whole image",
    "Unseg-Reason": "why it is weak",
    "Unseg-Psnr": "PSNR in dB; missing where nothing changed",
    "Unseg-Key-Hash": "tells which key was used, and nothing of the key",
}
ERRORS = {
    "403": "no token, another host's name, or a page of another site",
    "413": "larger than the limits",
    "422": "the picture, the mask or an option cannot be used",
}


def openapi() -> dict[str, Any]:
    """Returns the description in OpenAPI 3.1. Its server is relative: the address that it was fetched from."""
    error = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
    answers: dict[str, Any] = {
        "200": {
            "description": "The protected picture.",
            "headers": {name: {"description": told, "schema": {"type": "string"}} for name, told in HEADERS.items()},
            "content": {f"image/{form}": {"schema": {"type": "string", "format": "binary"}} for form in FORMATS},
        }
    }
    for status, told in ERRORS.items():
        answers[status] = {
            "description": f"One line says what is wrong: {told}.",
            "content": {"application/json": {"schema": error}},
        }
    form = {
        "type": "object",
        "required": ["image"],
        "properties": {name: field.schema() for name, field in FIELDS.items()},
    }
    operation = {
        "operationId": "protect",
        "summary": SUMMARY,
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}},
        "responses": answers,
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "UnSeg", "version": __version__, "description": AUTHORITY},
        "servers": [{"url": "./"}],
        "paths": {"/protect": {"post": operation}},
    }


def _told(text: str) -> str:
    """Returns words as HTML; what stands in backticks is code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(text))


def page() -> str:
    """Returns the description as a page."""
    fields = "".join(
        f"<tr><th scope=row><code>{name}</code></th><td>{field.kind}</td><td>{_told(field.told)}"
        f"{_told(' One of ' + ', '.join(field.choices) + '.') if field.choices else ''}</td></tr>"
        for name, field in FIELDS.items()
    )
    headers = "".join(f"<tr><th scope=row>{name}</th><td>{_told(told)}</td></tr>" for name, told in HEADERS.items())
    errors = "".join(f"<tr><th scope=row>{status}</th><td>{_told(told)}</td></tr>" for status, told in ERRORS.items())
    example = "curl -F image=@photo.jpg -F mask=@mask.png \\\n     -o protected.png  ADDRESS/protect"
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>UnSeg: HTTP interface</title>"
        "<meta name=viewport content='width=device-width'><link rel=icon href=icon.svg>"
        "<link rel=stylesheet href=style.css><main class=manual>"
        f"<h1>HTTP interface</h1><p>{_told(SUMMARY)} {_told(AUTHORITY)}"
        " Programs read the same as <a href=openapi.json>OpenAPI</a>.</p>"
        f"<h2>POST /protect</h2><pre>{example}</pre><p>A form (multipart/form-data) with these fields:</p>"
        f"<div class=wide><table><thead><tr><th>field<th>kind<th>meaning</thead><tbody>{fields}</tbody></table></div>"
        f"<h2>The answer</h2><p>The picture's file, and in its headers:</p><table><tbody>{headers}</tbody></table>"
        '<h2>Errors</h2><p>JSON, <code>{"error": "one line"}</code>, with one of these statuses:</p>'
        f"<table><tbody>{errors}</tbody></table></main></html>"
    )


def as_json() -> str:
    """Returns the OpenAPI description as text."""
    return json.dumps(openapi(), indent=1)
