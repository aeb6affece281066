"""Class names are unique: no class or type alias of the four packages has the name of another."""

import ast
from collections import defaultdict

SOURCES = ("distillkit", "cli/distillkit_cli", "export/distillkit_export", "plugins/distillkit_plugins")


def class_names(tree):
    """The names of all classes in a module, nested ones included, and of its type aliases."""
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
            for name in class_names(ast.parse(path.read_text(encoding="utf-8"))):
                places[name].append(path.relative_to(root).as_posix())
    # The contract requires a class of this name in every plugin.
    assert {name: where for name, where in places.items() if len(where) > 1 and name != "Options"} == {}
