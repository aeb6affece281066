"""Errors of libraries and plugins as text for a message."""

import pytest

from distillkit.messages.text import first_line, message_of, one_line, with_type


class WithoutMessageError(Exception):
    def __str__(self):
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "texts"),
    [
        (ValueError("no pen"), ("no pen", "no pen", "no pen", "ValueError: no pen")),
        (ValueError("\n no\n  pen"), ("\n no\n  pen", "no pen", "no", "ValueError: no pen")),
        (KeyError(), ("", "KeyError", "KeyError", "KeyError")),
        (WithoutMessageError(), ("", "WithoutMessageError", "WithoutMessageError", "WithoutMessageError")),
    ],
    ids=["line", "page", "empty", "raises"],
)
def test_forms_of_an_error(error, texts):
    assert (message_of(error), one_line(error), first_line(error), with_type(error)) == texts


def test_an_error_with_its_type_has_at_most_300_characters():
    assert with_type(ValueError("x" * 400)) == f"ValueError: {'x' * 285}..."


def test_an_interrupt_inside_str_of_an_error_is_not_swallowed():
    class InterruptingError(Exception):
        def __str__(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        message_of(InterruptingError())
