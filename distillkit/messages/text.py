"""Text for messages: errors on one line, text that is safe for a terminal or a page, commands, numbers with nouns."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

LONGEST = 10_000
"""Characters of an error's message that are used. Libraries quote names of files, which may be of any length."""


def one_line(error: BaseException) -> str:
    r"""An error's message without line breaks, or its type if the message is empty.

    >>> one_line(ValueError("a page of\n  reasons")), one_line(KeyError())
    ('a page of reasons', 'KeyError')
    """
    return " ".join(message_of(error).split()) or type(error).__name__


def first_line(error: BaseException) -> str:
    r"""The first line of an error's message, or its type if the message is empty: for libraries with long messages.

    >>> first_line(ValueError("a page of\n  reasons")), first_line(KeyError())
    ('a page of', 'KeyError')
    """
    return (message_of(error).strip() or type(error).__name__).splitlines()[0]


def with_type(error: BaseException) -> str:
    r"""An error as `Type: message` on one line, at most 300 characters long.

    >>> with_type(ValueError("no\n  pen")), with_type(KeyError())
    ('ValueError: no pen', 'KeyError')
    """
    return shortened(" ".join(f"{type(error).__name__}: {message_of(error)}".split()).removesuffix(":"), most=300)


def message_of(error: BaseException) -> str:
    """The message of an error, of at most `LONGEST` characters; empty if its `__str__` raises, as a plugin's may."""
    try:
        return shortened(str(error), LONGEST)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - third-party code; the type is still known
        return ""


def shortened(text: str, most: int = 200) -> str:
    """At most `most` characters of a text, for a message that quotes a value from a file."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def printable_lines(text: str) -> str:
    """A text of several lines with control characters escaped; line breaks are kept."""
    return "\n".join(map(visible, text.split("\n")))


def visible(text: str) -> str:
    r"""Any text on one line, safe for a terminal or a UTF-8 file.

    Non-printable characters (control characters, lone surrogates, unusual spaces) are escaped.

    >>> visible("cat/\udcff\n  .png")
    'cat/\\udcff\\n  .png'
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def printable_json(value: object) -> str:
    r"""A value as indented JSON that is safe for a terminal: control characters are escaped as JSON does it.

    >>> print(printable_json({"class": "cat\x9b2J"}))
    {
      "class": "cat\u009b2J"
    }
    """
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return "".join(each if each.isprintable() or each == "\n" else json.dumps(each)[1:-1] for each in text)


def markdown_text(text: str) -> str:
    r"""Any text on one line of a Markdown page or in a cell of its tables: no HTML, no link, no image.

    >>> print(markdown_text("a|b\n![c](d) <img>"))
    a\|b\\n!\[c\](d) &lt;img>
    """
    # Backslashes too: one before an escape that is added here would undo it.
    escaped = "".join(f"\\{each}" if each in r"\[]|" else each for each in visible(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;")


def command(*words: str | Path) -> str:
    """A command that a shell can run, with every path as one word and never as an option.

    >>> command("distillkit", "verify", Path("my bundle; rm -r x")), command("verify", Path("-v"))
    ("distillkit verify 'my bundle; rm -r x'", 'verify ./-v')
    """
    paths = (f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word) for word in words)
    return shlex.join(paths)


def counted(number: int, noun: str) -> str:
    """A number with its noun, in singular or plural.

    >>> counted(1, "image"), counted(1297, "image"), counted(2, "process")
    ('1 image', '1,297 images', '2 processes')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}{'es' if noun.endswith('s') else 's'}"


def nearest_multiples(value: int, factor: int) -> str:
    """The nearest multiples of `factor` below and above `value`, without 0.

    >>> nearest_multiples(20, 16), nearest_multiples(9, 16)
    ('16 or 32', '16')
    """
    below = value // factor * factor
    return f"{below} or {below + factor}" if below else f"{factor}"


def size_text(size: int) -> str:
    """A number of bytes for people: "12.3 MB"."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size} bytes"


def duration(seconds: float) -> str:
    """A number of seconds for people: "3.2 hours"."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return counted(max(1, round(seconds)), "second")
