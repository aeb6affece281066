"""The check of words finds those that scripts/plain_words.toml lists, in texts and in names."""

import runpy
import tomllib

import pytest


@pytest.fixture
def script(root):
    return runpy.run_path(str(root / "scripts" / "plain_words.py"))


@pytest.fixture
def found(root, script):
    listed = tomllib.loads((root / "scripts" / "plain_words.toml").read_text(encoding="utf-8"))

    def find(text):
        return sorted(script["findings"](text, listed["words"], listed["exceptions"]))

    return find


@pytest.mark.parametrize(
    "planted",
    [
        "strangers",
        "Nobody",
        "beside",
        "goes on",
        "goes\n    # on",
        'goes "\n    f"on',
        "is none",
        "hears_it",
        "somebody else",
    ],
    ids=lambda planted: " ".join(planted.split()),
)
def test_a_planted_word_is_found(found, planted):
    assert [(line, column) for line, column, _, _ in found(f"a line\nread {planted} again")] == [(2, 6)]


def test_words_with_another_meaning_pass(found):
    assert found("if value is None: ongoing, besides, hearsay, retold, Nobodyness") == []


def test_parts_of_a_class_name_are_found(found):
    assert [word for _, _, word, _ in found("class TotalStrangerCount: ...")] == ["Stranger"]


def test_the_script_names_file_place_and_remedy(script, tmp_path, capsys):
    (tmp_path / "page.md").write_text("# Title\n\nFor somebody.\n", encoding="utf-8")
    assert script["main"]([str(tmp_path / "page.md")]) == 1
    assert capsys.readouterr().out == (
        f"{tmp_path / 'page.md'}:3:5: 'somebody'; write instead: the noun: a process, a plugin, a user; third-party\n"
    )
