"""A name means one thing: no class and no type alias of the four packages has the name of another."""

import ast
from collections import defaultdict

SOURCES = ("distillkit", "cli/distillkit_cli", "export/distillkit_export", "plugins/distillkit_plugins")


def named(tree):
    """The classes of a module, those inside others too, and its type aliases."""
    yield from (node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        yield from (
            target.id
            for target in targets
            if isinstance(target, ast.Name) and target.id[0].isupper() and not target.id.isupper()
        )


def test_no_class_name_is_used_for_two_things(root):
    places = defaultdict(list)
    for source in SOURCES:
        for path in sorted((root / source).rglob("*.py")):
            for name in named(ast.parse(path.read_text(encoding="utf-8"))):
                places[name].append(path.relative_to(root).as_posix())
    # Every plugin keeps its options in a class of this name: the contract says so.
    assert {name: where for name, where in places.items() if len(where) > 1 and name != "Options"} == {}
