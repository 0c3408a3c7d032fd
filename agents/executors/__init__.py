"""The executors: what can be done in a step, one module each.

To add one, write its module and name its function in :data:`EXECUTORS`.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from pydantic import BaseModel

from agents.executors import http, mcp, notify, python, sql
from agents.runtime.execution import executor_of
from schemas import JsonObject

EXECUTORS: Final[tuple[Callable[..., Awaitable[JsonObject]], ...]] = (
    http.call,
    sql.run,
    mcp.call,
    notify.send_message,
    python.call,
)
"""The executors' functions; each carries its role."""

SETTINGS_MODELS: Final[Mapping[str, type[BaseModel]]] = {
    spec.name: spec.settings for spec in map(executor_of, EXECUTORS)
}
"""By executor, the model of an action's ``with``; for checking actions.yaml."""

__all__ = ["EXECUTORS", "SETTINGS_MODELS"]
