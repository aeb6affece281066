"""Hooks are public API: each has a built-in plugin that uses it, a test, and a section in the reference."""

import ast

import pytest

from distillkit.plugin import hookspecs

HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("distillkit_"))


def functions(folder):
    """The names of all functions and methods defined in the Python files below `folder`."""
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


def test_the_hooks_are_found():
    """Without hooks, the parametrised tests below would pass without checking anything."""
    assert {"distillkit_losses", "distillkit_run_started"} <= set(HOOKS)


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_test(hook, tests):
    name = f"test_hook_{hook.removeprefix('distillkit_')}"
    assert name in tests, f"write {name}"


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_built_in_plugin_that_uses_it(hook, built_ins):
    """The only limit on the number of hooks: without a use, nothing shows that a hook is right."""
    assert hook in built_ins, f"no module of plugins/, export/ or cli/ defines {hook}; add a built-in plugin that does"


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_section_in_the_reference(hook, root):
    page = (root / "docs" / "reference" / "hooks.md").read_text(encoding="utf-8")
    assert f"\n## `{hook}`\n" in page, "run `make docs`"


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_documents_when_it_is_called_and_an_example_that_exists(hook, root):
    text = getattr(hookspecs, hook).__doc__
    assert "Called:" in text
    example = text.partition("Example:")[2].split()[0]
    assert f"def {hook}" in (root / example).read_text(encoding="utf-8")
