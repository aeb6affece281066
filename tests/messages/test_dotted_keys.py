"""Nested tables by dotted key, and the keys in which two of them differ."""

from distillkit.messages.dotted_keys import by_dotted_key, differences


def test_nested_tables_have_dotted_keys_and_lists_are_values():
    assert by_dotted_key({"a": {"b": {"c": 1}, "d": [{"e": 2}]}, "f": None, "empty": {}}) == {
        "a.b.c": 1,
        "a.d": [{"e": 2}],
        "f": None,
    }


def test_differences_are_sorted_and_a_missing_key_has_none():
    ours = {"z": 1, "a": {"b": 1, "c": 2}, "m": {}}
    theirs = {"z": 2, "a": {"b": 1, "d": 3}, "n": None}
    assert list(differences(ours, theirs).items()) == [("a.c", (2, None)), ("a.d", (None, 3)), ("z", (1, 2))]
    assert differences(ours, ours) == {}
