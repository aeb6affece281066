"""The rows of two sections in docs/reliability.md name tests that exist, and the page shows these rows."""

import ast
import json

from tests.faults.inputs import ROOT, counted, rows, sections


def names_in(file):
    """The names of the tests and classes of a file, as pytest writes them after `::`."""
    names = set()
    for node in ast.parse((ROOT / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return names


def test_every_named_test_exists():
    named = [test.partition("::") for row in rows(sections()) for test in row["tests"]]
    assert [f"{file}::{test}" for file, _, test in named if test and test not in names_in(file)] == []
    assert all((ROOT / file).is_file() for file, _, _ in named)


def test_the_results_are_those_of_the_rows():
    found = json.loads((ROOT / "docs/benchmarks/reliability-inputs.json").read_text(encoding="utf-8"))
    measured = [{key: row[key] for key in ("input", "answer", "tests")} for row in rows(found["sections"])]
    assert measured == list(rows(sections()))
    assert [row["input"] for row in rows(found["sections"]) if row["passed"] < row["ran"] or not row["ran"]] == []


def test_cases_are_counted_with_their_parameters():
    outcomes = {
        "tests.data.test_a.test_one": True,
        "tests.data.test_a.test_one[x-1.5]": False,
        "tests.data.test_a.test_one_more": True,
        "tests.data.test_a.TestKind.test_one": True,
        "tests.data.test_ab.test_one": True,
    }
    assert counted(["tests/data/test_a.py::test_one"], outcomes) == {"ran": 2, "passed": 1}
    assert counted(["tests/data/test_a.py::TestKind"], outcomes) == {"ran": 1, "passed": 1}
    assert counted(["tests/data/test_a.py"], outcomes) == {"ran": 4, "passed": 3}
