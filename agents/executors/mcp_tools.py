"""The tools of an MCP server as entries of the catalogue.

What a server says of its tools is a claim: that one only reads, or may be repeated. It is believed
only where the person who imports them says so; otherwise each tool is an effect of high risk that
needs approval, until somebody who knows it changes the entry. That a tool destroys is believed of
any server.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from mcp import Client
from mcp_types import Tool

from agents.executors.mcp_transport import open_transport
from agents.runtime.catalogue import McpEndpoint, McpProcess
from agents.runtime.context import Services
from schemas import JsonObject

_TYPES: Final = ("string", "integer", "number", "boolean", "object", "array")
_LONGEST: Final = 300
_MOST_PAGES: Final = 100
#: JSON Schema's names for the limits that a parameter of the catalogue has.
_LIMITS: Final = {"minimum": "minimum", "maximum": "maximum", "maxLength": "max_length"}


async def list_tools(name: str, services: Services) -> list[Tool]:
    """The tools of the server behind a connection.

    Raises:
        TypeError: The connection is no MCP server.
        MillstreamError: A secret cannot be had.
        Exception: The server cannot be reached, or does not keep to the protocol.
    """
    declared = services.catalogue.connections[name]
    if not isinstance(declared, McpProcess | McpEndpoint):
        raise TypeError(f"connection {name!r} is no MCP server")
    tools: list[Tool] = []
    async with Client(open_transport(name, declared, services), cache=None) as client:
        cursor: str | None = None
        for _ in range(_MOST_PAGES):
            page = await client.list_tools(cursor=cursor)
            tools.extend(page.tools)
            cursor = page.next_cursor
            if cursor is None:
                break
    return tools


def action_id(server: str, tool: str) -> str:
    """The id of a tool's action, such as ``files.read_file``."""
    return f"{server}.{_snake(tool)}"


def declare(server: str, tool: Tool, *, believe: bool) -> JsonObject:
    """A tool as an entry of ``actions``.

    Args:
        server: The connection's name.
        tool: What the server says of it.
        believe: Whether what it says of the tool's effect is taken for true.
    """
    schema = tool.input_schema
    names = {name: _snake(name) for name in schema.get("properties", {})}
    required = set(schema.get("required", ()))
    settings: JsonObject = {"server": server, "tool": tool.name}
    if any(name != snake for name, snake in names.items()):
        settings["arguments"] = {name: f"{{{snake}}}" for name, snake in names.items()}
    settings["outputs"] = {"text": "$.text"}
    return {
        "description": _line(tool.description or tool.title or tool.name),
        "parameters": {
            names[name]: _parameter(name, part, schema, is_required=name in required)
            for name, part in schema.get("properties", {}).items()
        },
        "executor": "mcp",
        "with": settings,
        **_effect(tool, believe=believe),
        "outputs": {"text": {"description": "What the tool says."}},
    }


def _effect(tool: Tool, *, believe: bool) -> JsonObject:
    hints = tool.annotations
    if not believe or hints is None:
        # A server that warns of its own tool is believed in any case.
        warned: JsonObject = {"destructive": True} if hints and hints.destructive_hint else {}
        return {"effect": "effect", "risk": "high", **warned, "needs_approval": True}
    if hints.read_only_hint:
        return {"effect": "read", "risk": "low"}
    effect = "idempotent" if hints.idempotent_hint else "effect"
    if hints.destructive_hint is False:
        return {"effect": effect, "risk": "medium", "needs_approval": True}
    # By the protocol a tool that writes destroys unless it says that it does not.
    return {"effect": effect, "risk": "high", "destructive": True, "needs_approval": True}


def _parameter(
    name: str, part: Mapping[str, Any], root: Mapping[str, Any], *, is_required: bool
) -> JsonObject:
    part = _resolved(part, root)
    kind = part.get("type")
    entry: JsonObject = {
        "type": kind if kind in _TYPES else "string",
        "description": _line(part.get("description") or part.get("title") or name),
    }
    if "enum" in part:
        entry["choices"] = list(part["enum"])
    entry |= {ours: part[theirs] for theirs, ours in _LIMITS.items() if theirs in part}
    if part.get("default") is not None:
        entry["default"] = part["default"]
    elif not is_required:
        entry["required"] = False
    return entry


def _resolved(part: Mapping[str, Any], root: Mapping[str, Any]) -> dict[str, Any]:
    """A schema without its detours: a reference, or a choice between a type and null."""
    merged = dict(part)
    if (reference := merged.pop("$ref", None)) is not None:
        target = root.get("$defs", {}).get(str(reference).rpartition("/")[2], {})
        merged = {**_resolved(target, {}), **merged}
    for choice in (*merged.pop("anyOf", ()), *merged.pop("oneOf", ())):
        if choice.get("type") != "null":
            merged = {**_resolved(choice, root), **merged}
            break
    if isinstance(merged.get("type"), list):
        merged["type"] = next((kind for kind in merged["type"] if kind != "null"), None)
    return merged


def _snake(name: str) -> str:
    """``name`` as the catalogue writes names: ``maxResults`` is ``max_results``."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    snake = re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")
    return (snake if snake[:1].isalpha() else f"p_{snake}")[:63]


def _line(text: str) -> str:
    """The first paragraph of a description, on one line."""
    first = text.strip().split("\n\n")[0]
    return " ".join("".join(c if c.isprintable() else " " for c in first).split())[:_LONGEST] or "-"
