"""Text for messages: an error on one line, shortened text, text safe for a terminal, numbers with nouns."""

from __future__ import annotations


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
    """The message of an error; empty if its `__str__` raises, as a plugin's may."""
    try:
        return str(error)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - third-party code; the type is still known
        return ""


def shortened(text: str, most: int = 200) -> str:
    """At most `most` characters of a text, for a message that quotes a value from a file."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def printable(text: str) -> str:
    r"""A message with control characters escaped, safe for a terminal.

    Line breaks before the indented lines of a list are kept.

    >>> print(printable("image 'a\x1b[2J\n.png' is broken"))
    image 'a\x1b[2J\n.png' is broken
    """
    return "\n  ".join(map(visible, text.split("\n  ")))


def printable_lines(text: str) -> str:
    """A text of several lines with control characters escaped; line breaks are kept."""
    return "\n".join(map(printable, text.split("\n")))


def visible(text: str) -> str:
    r"""Any text on one line, safe for a terminal or a UTF-8 file.

    Non-printable characters (control characters, lone surrogates, unusual spaces) are escaped.

    >>> visible("cat/\udcff\n  .png")
    'cat/\\udcff\\n  .png'
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def counted(number: int, noun: str) -> str:
    """A number with its noun, in singular or plural.

    >>> counted(1, "image"), counted(1297, "image"), counted(2, "process")
    ('1 image', '1,297 images', '2 processes')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}{'es' if noun.endswith('s') else 's'}"
