"""Executor ``mcp``: calls a tool of an MCP server.

Consumes ``Step``; emits ``StepResult``. MCP is the Model Context Protocol, see
modelcontextprotocol.io. That a tool says of itself that it failed is a definite failure; an answer
that never comes is not.
"""

import importlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final, Self

from pydantic import Field, JsonValue, ValidationInfo, model_validator

from agents.executors.checking import OutputPaths, check_connection, check_names, check_outputs
from agents.executors.json_path import pick
from agents.runtime.catalogue import McpEndpoint, McpProcess
from agents.runtime.context import Services
from agents.runtime.declarations import Declaration
from agents.runtime.errors import PermanentError
from agents.runtime.execution import Job, executor
from agents.runtime.templates import parameters_in, render_json
from schemas import JsonObject
from schemas.base import Identifier

if TYPE_CHECKING:
    from mcp_types import CallToolResult

    from agents.executors.mcp_server import McpServer

KINDS: Final = ("mcp_stdio", "mcp_http")
"""The kinds of connections that are MCP servers."""
_KEY: Final = "io.millstream/idempotency-key"


class McpSettings(Declaration):
    """The ``with`` of an action that the executor ``mcp`` does."""

    server: Identifier
    """A connection of the kind mcp_stdio or mcp_http, by name"""
    tool: Annotated[str, Field(min_length=1, max_length=200)]
    """The tool's name"""
    arguments: dict[str, JsonValue] | None = None
    """A template of the tool's arguments; all parameters by their names where it is not given"""
    outputs: OutputPaths = Field(default_factory=dict)
    """By output, the JSONPath of its value in {"text": …, "structured": {…}, "content": […]}"""

    @model_validator(mode="after")
    def _the_action_has_what_is_named(self, info: ValidationInfo) -> Self:
        check_connection(self.server, KINDS, info)
        check_names(parameters_in(self.arguments), info)
        check_outputs(self.outputs, info)
        return self


class McpServers:
    """The servers of a process; each is connected to when it is first called."""

    def __init__(self, services: Services, stack: AsyncExitStack) -> None:
        self._services = services
        self._stack = stack
        self._servers: dict[str, McpServer] = {}

    def named(self, name: str) -> "McpServer":
        """The server behind the connection of that name."""
        server = self._servers.get(name)
        if server is None:
            # Not at the top: the client takes a second to load, and many processes have no server.
            from agents.executors.mcp_server import McpServer  # noqa: PLC0415
            from agents.executors.mcp_transport import open_transport  # noqa: PLC0415

            declared = self._services.catalogue.connections[name]
            if not isinstance(declared, McpProcess | McpEndpoint):
                raise TypeError(f"connection {name!r} is no MCP server")
            server = McpServer(name, partial(open_transport, name, declared, self._services))
            self._servers[name] = server
            self._stack.push_async_callback(server.close)
        return server


@asynccontextmanager
async def open_servers(services: Services) -> AsyncIterator[McpServers]:
    """The servers that actions call."""
    if any(connection.kind in KINDS for connection in services.catalogue.connections.values()):
        importlib.import_module("agents.executors.mcp_server")  # now, so that no step waits for it
    async with AsyncExitStack() as stack:
        yield McpServers(services, stack)


@executor("mcp", settings=McpSettings, client=open_servers)
async def call(job: Job[McpSettings], servers: McpServers) -> JsonObject:
    """Call the tool; returns the outputs that the action names."""
    settings = job.settings
    result = await servers.named(settings.server).call(
        settings.tool,
        await _arguments(job),
        meta={_KEY: job.idempotency_key},
        seconds=job.seconds_left,
    )
    document = as_document(result)
    if result.is_error:
        said = document["text"] or "without saying why"
        raise PermanentError(f"the tool {settings.tool} failed: {said}", code="tool_error")
    return {name: pick(path, document) for name, path in settings.outputs.items()}


async def _arguments(job: Job[McpSettings]) -> JsonObject:
    template = job.settings.arguments
    if template is None:
        return job.parameters
    rendered = render_json(template, job.parameters, await job.values(template))
    if not isinstance(rendered, dict):
        raise TypeError("arguments are an object")
    return rendered


def as_document(result: "CallToolResult") -> JsonObject:
    """What a tool gave back, as outputs find it."""
    texts = [block.text for block in result.content if block.type == "text"]
    return {
        "text": "\n".join(texts),
        "structured": result.structured_content,
        "content": [
            block.model_dump(mode="json", by_alias=True, exclude_none=True)
            for block in result.content
        ],
    }
