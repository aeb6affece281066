"""Text that a sentence quotes: on one line, shortened, safe to show in a terminal; numbers with their nouns."""

from __future__ import annotations


def one_line(error: BaseException) -> str:
    r"""What an error of somebody else says, without its line breaks: the end of a sentence of ours.

    >>> one_line(ValueError("a page of\n  reasons")), one_line(KeyError())
    ('a page of reasons', 'KeyError')
    """
    return " ".join(said_by(error).split()) or type(error).__name__


def said_by(error: BaseException) -> str:
    """The message of an error of somebody else; nothing where it raises when it is asked for its message."""
    try:
        return str(error)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - the code of a stranger; its type is still known
        return ""


def shortened(text: str, most: int = 200) -> str:
    """A text of at most so many characters, for a sentence that quotes what may have been a whole file."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def printable(text: str) -> str:
    r"""A text that a terminal shows as one line: what controls it is written as Python does.

    Line breaks stay where an indented line of a list follows.

    >>> print(printable("image 'a\x1b[2J\n.png' is broken"))
    image 'a\x1b[2J\n.png' is broken
    """
    return "\n  ".join(map(visible, text.split("\n  ")))


def printable_lines(text: str) -> str:
    """A text of several lines, each of which a terminal shows as a line."""
    return "\n".join(map(printable, text.split("\n")))


def visible(text: str) -> str:
    r"""A text on one line, whatever it is, that a terminal shows as it is and every file can hold.

    What Python calls not printable (control characters, halves of surrogate pairs, odd blanks) becomes its escape.

    >>> visible("cat/\udcff\n  .png")
    'cat/\\udcff\\n  .png'
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural where there is not one of it.

    >>> counted(1, "image"), counted(1297, "image"), counted(2, "process")
    ('1 image', '1,297 images', '2 processes')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}{'es' if noun.endswith('s') else 's'}"
