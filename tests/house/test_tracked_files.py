"""Tracked files: no paths of one machine, no package hosts, no large files, and one version number."""

import re

import distillkit

MACHINE_PATH = re.compile(r"(?<![\w.<>/\-])/(?:work|root|home|Users|mnt)/\w")
# Assembled, so that this file does not contain them.
PACKAGE_HOSTS = tuple(f"{name}.{end}" for name, end in (("pypi", "org"), ("pythonhosted", "org"), ("conda", "io")))
LARGE = 1_000_000


def lines_with(texts, matches):
    return [f"{name}:{number}" for name, text in texts.items() for number, line in numbered(text) if matches(line)]


def numbered(text):
    return enumerate(text.splitlines(), start=1)


def test_no_path_of_one_machine(tracked_texts):
    assert lines_with(tracked_texts, MACHINE_PATH.search) == []


def test_the_search_for_machine_paths_finds_one():
    assert MACHINE_PATH.search("cd /" + "home/user/project")
    assert not MACHINE_PATH.search("see docs/work/plan.md or https://example.com/home/page")


def test_no_package_host(tracked_texts):
    assert lines_with(tracked_texts, lambda line: any(host in line for host in PACKAGE_HOSTS)) == []


def test_no_large_files(root, tracked_texts):
    assert [name for name in tracked_texts if (root / name).stat().st_size > LARGE] == []


def test_no_module_has_a_meaningless_name(tracked_texts):
    meaningless = re.compile(r"(^|/)(utils?|common|misc|helpers?|v2|new)\.py$")
    assert [name for name in tracked_texts if meaningless.search(name)] == []


def test_no_init_in_tests(tracked_texts):
    """With the repository root on the path, `tests` would be importable everywhere."""
    names = re.compile(r"^tests/(?!third_party/|export/tensorrt/double/).*__init__\.py$")
    assert [name for name in tracked_texts if names.search(name)] == []


def test_no_module_is_longer_than_four_hundred_lines(tracked_texts):
    sources = {
        name: text for name, text in tracked_texts.items() if re.match(r"(distillkit|cli|export|plugins)/.*\.py$", name)
    }
    assert {name: text.count("\n") for name, text in sources.items() if text.count("\n") > 400} == {}


def test_the_version_is_written_once(tracked_texts):
    assignment = re.compile(r"""^__version__\s*=|^version\s*=\s*["']""")
    own = {name: text for name, text in tracked_texts.items() if not name.startswith("tests/")}
    assert [line.partition(":")[0] for line in lines_with(own, assignment.search)] == ["distillkit/version.py"]
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", distillkit.__version__)
