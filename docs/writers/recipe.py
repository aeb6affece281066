"""docs/reference/recipe.md: every table, key, type, default and meaning, from distillkit.recipe.schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from distillkit.recipe.schema import Recipe

MANY = {"teachers", "losses"}
BOUNDS = (("exclusiveMinimum", ">"), ("minimum", "≥"), ("exclusiveMaximum", "<"), ("maximum", "≤"))
WORDS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "object": "tables",
}


def page() -> str:
    """One section per table, in the order of a recipe file."""
    schema = Recipe.model_json_schema()
    sections = ["\n".join(_own_keys(schema))]
    for name, field in schema["properties"].items():
        table = _table(field, schema["$defs"])
        if table is not None:
            heading = f"[[{name}]]" if name in MANY else f"[{name}]"
            sections.append(f"## `{heading}`\n\n{one_line(table['description'])}\n\n" + key_table(table))
    return "\n\n".join(sections)


def options_table(options: type[BaseModel]) -> str:
    """The options of one plugin, as a table of keys."""
    return key_table(options.model_json_schema())


def key_table(table: Mapping[str, Any]) -> str:
    """A Markdown table of the keys of one JSON schema."""
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    required = set(table.get("required", ()))
    for key, field in table.get("properties", {}).items():
        default = "required" if key in required else _default(field.get("default"))
        rows.append(f"| `{key}` | {cell(kind(field))} | {default} | {cell(field.get('description', ''))} |")
    return "\n".join(rows)


def kind(field: Mapping[str, Any]) -> str:
    """The values that a key accepts, in words.

    >>> kind({"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "null"}]})
    'whole number > 0'
    """
    if "anyOf" in field:
        return " or ".join(kind(branch) for branch in field["anyOf"] if branch.get("type") != "null")
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if field.get("type") == "array":
        return _array(field)
    bounds = [f"{sign} {field[bound]}" for bound, sign in BOUNDS if bound in field]
    return " ".join([WORDS[field["type"]], " and ".join(bounds)]).strip()


def cell(text: str) -> str:
    """Text escaped for a cell of a Markdown table. Angle brackets in code between backticks are not escaped.

    >>> cell("`timm:<name>` or <any>")
    '`timm:<name>` or &lt;any>'
    """
    parts = one_line(text).replace("|", "\\|").split("`")
    return "`".join(part if index % 2 else part.replace("<", "&lt;") for index, part in enumerate(parts))


def one_line(text: str) -> str:
    """The text without its line breaks."""
    return " ".join(text.split())


def _own_keys(schema: Mapping[str, Any]) -> Iterator[str]:
    """The keys at the top of a recipe file, before the first table."""
    plain = {key: field for key, field in schema["properties"].items() if _table(field, schema["$defs"]) is None}
    yield "## At the top of the file\n"
    yield key_table({"properties": plain, "required": schema.get("required", ())})


def _table(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any] | None:
    reference = field.get("$ref") or field.get("items", {}).get("$ref")
    return definitions[reference.rpartition("/")[2]] if reference else None


def _array(field: Mapping[str, Any]) -> str:
    if "prefixItems" in field:
        return f"list of {len(field['prefixItems'])}, each a {kind(field['prefixItems'][0])}"
    return f"list, each a {kind(field['items'])}"


def _default(value: object) -> str:
    return "" if value is None else f"`{json.dumps(value)}`"
