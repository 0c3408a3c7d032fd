"""How a function becomes a role.

A role is an async function of one payload and a :class:`~agents.runtime.context.Context`; its
signature says what it consumes and emits::

    @role("planner")
    async def plan(intent: Intent, ctx: Context) -> Plan | Outcome: ...

Start-up compares the signature with topics.yaml; a disagreement refuses to start.
"""

import inspect
import typing
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from types import NoneType, UnionType
from typing import Any, Final, TypeVar, Union, get_args, get_origin

from agents.runtime.context import Context, Services
from agents.runtime.errors import ConfigurationError, ErrorCode
from agents.runtime.ports import OutboxRow
from agents.runtime.records import Outgoing, Record
from schemas import AgentMessage, ExecutionRequest, Intent, Outcome, Payload, Plan

Emitted = Payload | AgentMessage[Any] | OutboxRow[Any]
"""What a role returns: a payload to be put into an envelope, a ready envelope, or a message that
the ledger's outbox holds and that is struck off there once the broker has confirmed it."""
Emission = Emitted | Sequence[Emitted] | None
Handler = Callable[[Any, Context], Awaitable[Emission]]
Ticker = Callable[[Services, int], Awaitable[Sequence[OutboxRow[Any]]]]
"""What a role does by itself, now and then: given the services and the number of the tick (from 0;
a tick that raised is repeated), it returns messages to publish."""
GivesUp = Callable[[ErrorCode, str, Context], Awaitable[Sequence[OutboxRow[Any]]]]
"""What a role does about a message that it cannot handle, which is on its way to the dead letters:
given code and reason of the failure, it returns messages to publish."""
RecordHandler = Callable[[Record, Services], Awaitable[Outgoing]]
"""What handles records without looking into them."""
Lifespan = Callable[[Services], AbstractAsyncContextManager[Handler]]
F = TypeVar("F", bound=Callable[..., Awaitable[Any]])


@dataclass(frozen=True)
class RoleSpec:
    """What the decorator read from a role's function."""

    name: str
    handler: Handler
    consumes: frozenset[type[Payload]]
    emits: frozenset[type[Payload]]
    where: str
    """File and line of the function, for error messages."""
    executor: str | None = None
    """The executor that this role is, where it is one."""
    ordered: bool = True
    """Whether messages of one execution are handled one after the other."""
    keeps_order: bool = False
    """Whether a later message of an execution must never overtake an earlier one, so that none may
    wait on a delay topic."""
    ticker: Ticker | None = None
    gives_up: GivesUp | None = None
    """In place of what the runtime says of an execution that cannot go on."""
    lifespan: Lifespan | None = None
    """Opens what the role needs for as long as its process runs, such as a connection pool, and
    yields the handler to use in place of ``handler``."""
    records: RecordHandler | None = None
    """In place of ``handler``, for a role that handles records as bytes."""

    @property
    def consumed_schemas(self) -> frozenset[str]:
        """What topics.yaml must say that the role reads."""
        if self.records is not None:
            return frozenset({"bytes"})
        return frozenset(payload.__name__ for payload in self.consumes)

    @property
    def publishes(self) -> frozenset[type[Payload]]:
        """What the role emits, and the outcome that the runtime writes when it cannot go on.

        Before there is a run, an execution that fails is ended by an ``Outcome``; once there is
        one, only the router ends it.
        """
        return self.emits | {Outcome} if self.consumes & _BEFORE_THE_RUN else self.emits


_BEFORE_THE_RUN: Final[frozenset[type[Payload]]] = frozenset({ExecutionRequest, Intent, Plan})


def role(
    name: str,
    *,
    ticker: Ticker | None = None,
    keeps_order: bool = False,
    gives_up: GivesUp | None = None,
) -> Callable[[F], F]:
    """Declare a function as the role ``name``.

    ``ticker`` is what it does by itself; ``keeps_order`` forbids that one of its messages waits
    while later ones of the same execution are handled; ``gives_up`` ends what a message was about
    that it cannot handle. The function stays what it was, so a test
    calls it directly with a payload and a context.

    Raises:
        ConfigurationError: The signature is not that of a role.
    """

    def declare(function: F) -> F:
        function.__role__ = replace(  # type: ignore[attr-defined]  # a function takes attributes
            read_signature(name, function),
            ticker=ticker,
            keeps_order=keeps_order,
            gives_up=gives_up,
        )
        return function

    return declare


def record_role(name: str) -> Callable[[RecordHandler], RecordHandler]:
    """Declare a function of a record as the role ``name``, which looks into none of them."""

    def declare(function: RecordHandler) -> RecordHandler:
        function.__role__ = RoleSpec(  # type: ignore[attr-defined]  # a function takes attributes
            name=name,
            handler=_no_messages,
            consumes=frozenset(),
            emits=frozenset(),
            where=where(function),
            ordered=False,
            records=function,
        )
        return function

    return declare


async def _no_messages(_payload: Any, ctx: Context) -> Emission:
    raise TypeError(f"role {ctx.role!r} handles records, not messages")


def spec_of(function: Callable[..., Any]) -> RoleSpec:
    """The declaration of a decorated function.

    Raises:
        ConfigurationError: The function carries no ``@role``.
    """
    spec = getattr(function, "__role__", None)
    if not isinstance(spec, RoleSpec):
        raise ConfigurationError(f"{where(function)}: the function carries no @role")
    return spec


def where(function: Callable[..., Any]) -> str:
    """File and line at which ``function`` is defined."""
    code = inspect.unwrap(function).__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


def read_signature(name: str, function: Callable[..., Awaitable[Any]]) -> RoleSpec:
    """Read what ``function`` consumes and emits from its annotations.

    Raises:
        ConfigurationError: It is not async, does not take a payload and a context, or an
            annotation is not a payload model.
    """
    place = where(function)
    if not inspect.iscoroutinefunction(function):
        raise ConfigurationError(f"{place}: role {name!r} must be an async function")
    parameters = list(inspect.signature(function).parameters)
    hints: Mapping[str, Any] = typing.get_type_hints(function)
    if len(parameters) != 2 or hints.get(parameters[1]) is not Context:  # noqa: PLR2004  # payload, context
        raise ConfigurationError(
            f"{place}: role {name!r} must take (payload, ctx: Context), "
            f"not ({', '.join(parameters)})"
        )
    consumes = _payloads(hints.get(parameters[0]), f"{place}: role {name!r} consumes")
    emits = _payloads(hints.get("return"), f"{place}: role {name!r} emits")
    if not consumes:
        raise ConfigurationError(f"{place}: role {name!r} consumes nothing")
    return RoleSpec(name, function, consumes, emits, place)


def _payloads(hint: Any, place: str) -> frozenset[type[Payload]]:
    if hint is None or hint is NoneType:
        return frozenset()
    if inspect.isclass(hint) and issubclass(hint, Payload):
        return frozenset({hint})
    if inspect.isclass(hint) and issubclass(hint, AgentMessage):
        arms = hint.__pydantic_generic_metadata__["args"]
        return frozenset().union(*(_payloads(arm, place) for arm in arms))
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return frozenset().union(*(_payloads(arm, place) for arm in get_args(hint)))
    if inspect.isclass(origin) and issubclass(origin, Sequence | OutboxRow):
        members = [arm for arm in get_args(hint) if arm is not Ellipsis]
        return frozenset().union(*(_payloads(arm, place) for arm in members))
    raise ConfigurationError(f"{place} {hint!r}, which is no payload model")
