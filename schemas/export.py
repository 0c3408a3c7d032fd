"""JSON Schemas of every message, committed in schemas/json, and the check that guards them.

``python -m schemas.export`` writes them, except where that would break a reader; with ``--check``
it compares the models with the committed files. A breaking change is a field that is gone or of
another type, a new required field, a value that is no longer allowed: it needs a new topic version.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast

from schemas.envelope import envelope_type
from schemas.registry import PAYLOADS

FOLDER: Final = Path(__file__).parent / "json"
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
Schema = Mapping[str, Any]


def schema_of(name: str) -> dict[str, Any]:
    """The JSON Schema of the envelope that carries the payload ``name``."""
    schema = envelope_type(PAYLOADS[name]).model_json_schema(mode="validation")
    return {"$schema": _DIALECT, **schema, "title": name}


def render(schema: Schema) -> str:
    """``schema`` as it is committed."""
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def breaking_changes(old: Schema, new: Schema) -> list[str]:
    """Every place where the new schema refuses what the old one allowed, or drops a field."""
    return list(_compare(old, new, (old, new), "", frozenset()))


def _compare(
    old: Schema, new: Schema, roots: tuple[Schema, Schema], path: str, seen: frozenset[str]
) -> Iterator[str]:
    reference = cast("str | None", old.get("$ref"))
    if reference is not None:
        if reference in seen:
            return
        seen |= {reference}
    old, new = _resolve(old, roots[0]), _resolve(new, roots[1])
    place = path or "the message"
    if (before := _types(old, roots[0])) - (after := _types(new, roots[1])):
        yield f"{place}: was {_or(before)}, is {_or(after)}"
        return
    yield from _compare_values(old, new, place)
    yield from _compare_limits(old, new, place)
    old_fields, new_fields = old.get("properties", {}), new.get("properties", {})
    for name in sorted(old_fields.keys() - new_fields.keys()):
        yield f"{_join(path, name)}: the field is gone"
    newly_required = set(new.get("required", ())) - set(old.get("required", ()))
    for name in sorted(newly_required):
        what = "the field became required" if name in old_fields else "a new field is required"
        yield f"{_join(path, name)}: {what}"
    for name in sorted(old_fields.keys() & new_fields.keys()):
        yield from _compare(old_fields[name], new_fields[name], roots, _join(path, name), seen)
    for keyword in ("items", "additionalProperties"):
        if isinstance(old.get(keyword), dict) and isinstance(new.get(keyword), dict):
            yield from _compare(old[keyword], new[keyword], roots, f"{path}[]", seen)
    old_arms, new_arms = _arms(old), _arms(new)
    for before_arm, after_arm in zip(old_arms, new_arms, strict=False):
        yield from _compare(before_arm, after_arm, roots, path, seen)


def _compare_values(old: Schema, new: Schema, place: str) -> Iterator[str]:
    before, after = _values(old), _values(new)
    if before is not None and after is not None:
        for value in sorted(before - after):
            yield f"{place}: {value} is no longer allowed"
    elif before is None and after is not None:
        yield f"{place}: only {_or(after)} are allowed now"


def _compare_limits(old: Schema, new: Schema, place: str) -> Iterator[str]:
    for keyword, tighter in _LIMITS.items():
        before, after = old.get(keyword), new.get(keyword)
        if after is not None and (before is None or tighter * (after - before) > 0):
            yield f"{place}: {keyword} was {before}, is {after}"
    if new.get("pattern") is not None and new.get("pattern") != old.get("pattern"):
        yield f"{place}: pattern was {old.get('pattern')}, is {new['pattern']}"


#: Keyword → +1 where a larger number allows less, -1 where a smaller one does.
_LIMITS: Final[Mapping[str, int]] = {
    "minLength": 1,
    "minItems": 1,
    "minimum": 1,
    "exclusiveMinimum": 1,
    "maxLength": -1,
    "maxItems": -1,
    "maximum": -1,
    "exclusiveMaximum": -1,
}


def _resolve(schema: Schema, root: Schema) -> Schema:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    return cast("Schema", root["$defs"][cast("str", reference).removeprefix("#/$defs/")])


def _arms(schema: Schema) -> list[Schema]:
    return [*schema.get("anyOf", ()), *schema.get("oneOf", ())]


def _types(schema: Schema, root: Schema) -> frozenset[str]:
    schema = _resolve(schema, root)
    if arms := _arms(schema):
        return frozenset().union(*(_types(arm, root) for arm in arms))
    kind = schema.get("type", "anything")
    kinds = frozenset(kind if isinstance(kind, list) else [kind])
    # What takes any number takes integers; what takes anything takes all.
    return kinds | {"integer"} if "number" in kinds else kinds


def _values(schema: Schema) -> frozenset[str] | None:
    if "const" in schema:
        return frozenset({json.dumps(schema["const"])})
    if "enum" in schema:
        return frozenset(json.dumps(value) for value in schema["enum"])
    return None


def _or(values: frozenset[str]) -> str:
    return " or ".join(sorted(values)) or "nothing"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def check(folder: Path = FOLDER) -> list[str]:
    """Every way in which the models and the committed schemas differ; empty when they agree."""
    problems: list[str] = []
    for name in PAYLOADS:
        file = folder / f"{name}.schema.json"
        if not file.exists():
            problems.append(f"{file.name} is missing; write it with `python -m schemas.export`")
            continue
        committed = json.loads(file.read_text(encoding="utf-8"))
        current = json.loads(render(schema_of(name)))
        if committed == current:
            continue
        broken = breaking_changes(committed, current)
        problems += [f"{file.name}: breaking: {change}; make it a new topic" for change in broken]
        if not broken:
            problems.append(
                f"{file.name} is out of date by a compatible change: raise the model's "
                "schema_version and write it with `python -m schemas.export`"
            )
    known = {f"{name}.schema.json" for name in PAYLOADS} | {"actions.schema.json"}
    problems += [
        f"{file.name} belongs to no message; remove it"
        for file in sorted(folder.glob("*.json"))
        if file.name not in known
    ]
    return problems


def write(folder: Path = FOLDER) -> list[str]:
    """Write the schemas of all messages; where that would break a reader, say so and leave it."""
    folder.mkdir(exist_ok=True)
    broken: list[str] = []
    for name in PAYLOADS:
        file = folder / f"{name}.schema.json"
        text = render(schema_of(name))
        if file.exists():
            committed = json.loads(file.read_text(encoding="utf-8"))
            if changes := breaking_changes(committed, json.loads(text)):
                broken += [f"{file.name}: breaking: {change}" for change in changes]
                continue
        file.write_text(text, encoding="utf-8")
    return broken


def main(arguments: list[str]) -> int:
    """``--check`` compares and changes nothing; without it the files are written."""
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: python -m schemas.export [--check]\n")
        return 2
    problems = check() if arguments else write()
    sys.stdout.writelines(f"{problem}\n" for problem in problems)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
