"""An MCP server as a process of its own: tests call it, and some of its tools kill it.

Arguments: a file to which calls with an effect are noted, and a port for streamable HTTP; without
the port it speaks through its standard streams.
"""

import asyncio
import os
import sys
from typing import Annotated, Literal

from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import Field

NOTES = sys.argv[1]

server = MCPServer("test")


def write(line: str) -> None:
    with open(NOTES, "a") as file:  # noqa: PTH123  # one write, as it is
        file.write(line + "\n")


@server.tool(annotations=ToolAnnotations(read_only_hint=True))
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@server.tool()
def note(text: str) -> str:
    """Notes a text."""
    write(text)
    return f"noted {text}"


@server.tool()
def boom() -> str:
    """Fails."""
    raise ToolError("the tool has had enough")


@server.tool()
async def slow(text: str) -> str:
    """Notes a text, and never comes back."""
    write(text)
    await asyncio.Event().wait()
    return "never"


@server.tool()
def die(text: str) -> str:
    """Notes a text, and ends the server."""
    write(text)
    os._exit(3)


@server.tool()
def variable(name: str) -> dict[str, str]:
    """Says what a variable holds, and to standard error too."""
    print("asked for", os.environ.get(name), file=sys.stderr, flush=True)  # noqa: T201
    return {"value": os.environ.get(name, ""), "pid": str(os.getpid())}


@server.tool(
    name="search-Things", annotations=ToolAnnotations(read_only_hint=False, idempotent_hint=True)
)
def search(
    queryText: Annotated[str, Field(description="What to look for: any text", max_length=40)],  # noqa: N803
    kind: Literal["big", "small"] = "big",
    maxResults: Annotated[int, Field(ge=1, le=50)] = 10,  # noqa: N803
    tags: list[str] | None = None,
) -> str:
    """Looks for things.

    In many places.
    """
    return f"{queryText} {kind} {maxResults} {tags}"


if __name__ == "__main__":
    if len(sys.argv) > 2:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[2]))
    else:
        server.run("stdio")
