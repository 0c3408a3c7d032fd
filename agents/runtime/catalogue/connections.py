"""Where executors connect to: the entries of ``connections``, which actions name.

An address or a password that is nobody's business stands there as ``${secret:name}``.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from agents.runtime.declarations import Declaration
from agents.runtime.templates import Template


def _check_text(text: str) -> str:
    if named := Template.parse(text).parameters:
        raise ValueError(f"no parameter can choose it, but it names {', '.join(sorted(named))}")
    return text


FixedText = Annotated[str, AfterValidator(_check_text), Field(min_length=1)]
"""A text that may name secrets and settings, but no parameters."""


class PostgresConnection(Declaration):
    """A PostgreSQL database, for the executor ``sql``."""

    kind: Literal["postgres"]
    """What it is: postgres, mcp_stdio, mcp_http or smtp"""
    url: FixedText
    """Its address, such as ${secret:orders_database}, which holds postgresql://user:word@host/name"""
    pool_size: Annotated[int, Field(ge=1, le=100)] = 4
    """How many connections each process has at most"""


class McpProcess(Declaration):
    """An MCP server that is started as a process and spoken to through its standard streams."""

    kind: Literal["mcp_stdio"]
    """What it is: postgres, mcp_stdio, mcp_http or smtp"""
    command: Annotated[tuple[FixedText, ...], Field(min_length=1)]
    """The program and its arguments"""
    env: dict[str, FixedText] = Field(default_factory=dict)
    """Variables that it gets beside PATH, HOME and the like"""


class McpEndpoint(Declaration):
    """An MCP server that is reached by streamable HTTP."""

    kind: Literal["mcp_http"]
    """What it is: postgres, mcp_stdio, mcp_http or smtp"""
    url: FixedText
    """Its address, such as https://mcp.example.com/mcp"""
    headers: dict[str, FixedText] = Field(default_factory=dict)
    """Headers of each request, such as Authorization"""


class SmtpConnection(Declaration):
    """A mail server, for the executor ``notify``."""

    kind: Literal["smtp"]
    """What it is: postgres, mcp_stdio, mcp_http or smtp"""
    host: FixedText
    """Its name or address"""
    port: Annotated[int, Field(ge=1, le=65_535)] = 587
    """Its port"""
    security: Literal["starttls", "tls", "none"] = "starttls"
    """How the connection is encrypted: starttls, tls from the first byte on, or none"""
    username: FixedText | None = None
    """Who logs in; nobody does if not given"""
    password: FixedText | None = None
    """The password, such as ${secret:mail_password}"""
    sender: FixedText
    """The address that messages come from"""


Connection = Annotated[
    PostgresConnection | McpProcess | McpEndpoint | SmtpConnection, Field(discriminator="kind")
]
