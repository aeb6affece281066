"""A hook is added together with a test, a page and a built-in that uses it. It stays so."""

import ast

import pytest

from distillkit.plugin import hookspecs

HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("distillkit_"))


def functions(folder):
    """The names of all functions and methods that the sources below `folder` define."""
    return {
        node.name
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef)
    }


@pytest.fixture(scope="module")
def tests(root):
    return functions(root / "tests")


@pytest.fixture(scope="module")
def built_ins(root):
    return functions(root / "plugins") | functions(root / "export") | functions(root / "cli")


def test_there_are_about_a_dozen_hooks():
    assert 0 < len(HOOKS) <= 14


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_test(hook, tests):
    wanted = f"test_hook_{hook.removeprefix('distillkit_')}"
    assert wanted in tests, f"write {wanted}"


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_built_in_that_uses_it(hook, built_ins):
    assert hook in built_ins, f"no module of plugins/, export/ or cli/ defines {hook}"


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_its_place_on_the_page(hook, root):
    page = (root / "docs" / "reference" / "hooks.md").read_text(encoding="utf-8")
    assert f"\n## `{hook}`\n" in page, "run `make docs`"


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_says_when_it_is_called_and_names_an_example_that_exists(hook, root):
    text = getattr(hookspecs, hook).__doc__
    assert "Called:" in text
    example = text.partition("Example:")[2].split()[0]
    assert f"def {hook}" in (root / example).read_text(encoding="utf-8")
