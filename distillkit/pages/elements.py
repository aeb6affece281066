"""HTML and SVG elements. Every text and attribute is escaped when the tree is written."""

from __future__ import annotations

import base64
from xml.etree.ElementTree import Element, tostring

from distillkit.messages.text import visible
from distillkit.pages.content import Code, PageText, Picture, Strong

JPEG_START = b"\xff\xd8"


def element(tag: str, *children: Element | str | None, **attributes: str | float) -> Element:
    """An element with children and attributes; `class_` is "class", `aria_label` is "aria-label".

    >>> write(element("p", "a < b ", element("b", "c"), "d", class_="x"))
    '<p class="x">a &lt; b <b>c</b>d</p>'
    """
    made = Element(tag, {name.rstrip("_").replace("_", "-"): _plain(value) for name, value in attributes.items()})
    last: Element | None = None
    for child in children:
        if isinstance(child, Element):
            made.append(child)
            last = child
        elif child is not None and last is None:
            made.text = (made.text or "") + visible(child)
        elif child is not None and last is not None:
            last.tail = (last.tail or "") + visible(child)
    return made


def write(root: Element) -> str:
    """An element as HTML."""
    return tostring(root, encoding="unicode", method="html")


def rich(tag: str, text: PageText, **attributes: str | float) -> Element:
    """An element with text that may have emphasised parts and code."""
    parts = (text,) if isinstance(text, str | Code | Strong) else text
    return element(tag, *map(_inline, parts), **attributes)


def image(picture: Picture, **attributes: str | float) -> Element:
    """An <img> that contains the picture itself."""
    kind = "jpeg" if picture.content.startswith(JPEG_START) else "png"
    source = f"data:image/{kind};base64,{base64.b64encode(picture.content).decode('ascii')}"
    return element("img", src=source, alt=picture.alt, **attributes)


def number(value: float) -> str:
    """A coordinate, with two decimals at most."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _inline(part: str | Code | Strong) -> Element | str:
    if isinstance(part, Code):
        return element("code", part.text)
    return element("strong", part.text) if isinstance(part, Strong) else part


def _plain(value: str | float) -> str:
    return visible(value) if isinstance(value, str) else number(value)
