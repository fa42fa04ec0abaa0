"""HTML and SVG as element trees: what comes out of a file becomes text, never markup."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias
from xml.etree.ElementTree import Element, tostring

from unseg.storage.files import printable

Child: TypeAlias = "str | Element | None | Iterable[Child]"
# After these a line ends, so that pages can be compared line by line; it does not show.
BLOCKS = {
    "html",
    "head",
    "meta",
    "title",
    "body",
    "header",
    "main",
    "nav",
    "section",
    "footer",
    "div",
    "p",
    "h1",
    "h2",
    "h3",
    "ul",
    "li",
    "dl",
    "dt",
    "dd",
    "figure",
    "figcaption",
    "details",
    "summary",
    "table",
    "thead",
    "tbody",
    "tr",
    "svg",
    "g",
}


def el(tag: str, *children: Child, **attributes: object) -> Element:
    """Returns an element with its attributes and children: text, elements, or lists of them; None is left out.

    `class_` becomes class and `stroke_width` stroke-width. An attribute that is None is left out, and a float is
    shortened to two decimals. All text is made `printable`, and escaped when it is written.
    """
    element = Element(
        tag,
        {name.rstrip("_").replace("_", "-"): _value(value) for name, value in attributes.items() if value is not None},
    )
    if tag in BLOCKS:
        element.tail = "\n"
    add(element, *children)
    return element


def add(element: Element, *children: Child) -> None:
    """Adds children behind those that the element has."""
    for child in children:
        if child is None:
            continue
        if isinstance(child, Element):
            element.append(child)
        elif isinstance(child, str):
            _add_text(element, printable(child))
        else:
            add(element, *child)


def html_page(root: Element) -> str:
    """Returns the whole document, from its doctype on."""
    return "<!doctype html>\n" + tostring(root, encoding="unicode", method="html")


def svg_file(root: Element) -> str:
    """Returns a picture that stands alone."""
    root.set("xmlns", "http://www.w3.org/2000/svg")
    return tostring(root, encoding="unicode", method="xml")


def raw(tag: str, text: str, **attributes: str) -> Element:
    """Returns an element whose text is ours and is written as it is, such as a style sheet."""
    element = Element(tag, attributes)
    element.text, element.tail = text, "\n"
    return element


def _add_text(element: Element, text: str) -> None:
    if len(element):
        element[-1].tail = (element[-1].tail or "") + text
    else:
        element.text = (element.text or "") + text


def _value(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else printable(str(value))
