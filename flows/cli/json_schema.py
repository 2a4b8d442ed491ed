"""The schema of ``--json``, made of the classes of its lines."""

import json
from collections.abc import Iterator
from typing import Any

from pydantic.type_adapter import TypeAdapter

from flows.cli import lines, repository_lines
from flows.cli.lines import FORMAT, Failure, Line
from flows.cli.summaries import Summary
from sealift.errors import every_error

Schema = dict[str, Any]

MODULES = (lines, repository_lines)
"""Where classes of lines are; a class counts once its module is imported."""

_ABOUT = (
    "Every command prints one object per line: first hello, last summary or error. Additions "
    "raise the second number of the format, anything else the first; readers ignore what they "
    "do not know."
)


def line_classes() -> Iterator[type[Line]]:
    """Every kind of line that is printed: first the common ones, last the summaries."""
    kinds = [*Line.__subclasses__(), *Summary.__subclasses__()]
    yield from (kind for kind in kinds if kind is not Summary)


def schema_text() -> str:
    """The schema as it is shipped in ``docs``."""
    return json.dumps(schema(), indent=1, ensure_ascii=False) + "\n"


def schema(*, closed: bool = False) -> Schema:
    """A JSON Schema (2020-12) that every line keeps.

    Args:
        closed: refuse fields that are not named, as our own tests do; readers must not.
    """
    kinds = list(line_classes())
    definitions: Schema = {}
    for kind in kinds:
        own = TypeAdapter(kind).json_schema(mode="serialization")
        definitions.update(own.pop("$defs", {}))
        definitions[kind.__name__] = own
    for one in definitions.values():
        _tidy(one, closed=closed)
    _inherit_descriptions(definitions, kinds)
    failure = definitions[Failure.__name__]["properties"]
    failure["code"]["enum"] = sorted({kind("").code for kind in every_error()})
    failure["exit_code"]["enum"] = sorted({kind.exit_code for kind in every_error()})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"A line of sealift --json, format {FORMAT}",
        "description": _ABOUT,
        "anyOf": [{"$ref": f"#/$defs/{kind.__name__}"} for kind in kinds],
        "$defs": definitions,
    }


def _tidy(one: Schema, *, closed: bool) -> None:
    """No titles and defaults that only repeat names; every field is there."""
    one.pop("title", None)
    if "properties" not in one:
        return
    for name, field in one["properties"].items():
        field.pop("title", None)
        field.pop("default", None)
        if name.endswith("_bytes"):
            field["minimum"] = 0
    one["required"] = list(one["properties"])
    if closed:
        one["additionalProperties"] = False


def _inherit_descriptions(definitions: Schema, kinds: list[type[Line]]) -> None:
    """Text under a field of a base class is found in that class only."""
    base = TypeAdapter(Summary).json_schema(mode="serialization")["properties"]
    for kind in kinds:
        if issubclass(kind, Summary):
            for name, field in definitions[kind.__name__]["properties"].items():
                if "description" in base.get(name, {}):
                    field.setdefault("description", base[name]["description"])
