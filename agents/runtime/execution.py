"""How a function becomes an executor.

An executor does what a step asks for and returns its output; everything else is policy around it
(:mod:`agents.runtime.effects`)::

    @executor("http", settings=HttpSettings, client=open_client)
    async def call(job: Job[HttpSettings], client: httpx.AsyncClient) -> JsonObject: ...

The function stays what it was, so a test calls it directly; the role ``executor_http``, which
consumes ``Step`` and emits ``StepResult``, is attached to it. What it raises decides what becomes
of the step: ``NotSentError`` where nothing left this process, ``TransientError`` or
``PermanentError`` for a definite refusal, ``OutcomeUnknownError`` where there was no definite
answer, ``UnusableAnswerError`` where it was done but the answer cannot be used.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Generic, TypeVar, overload

import structlog
from pydantic import BaseModel, JsonValue, ValidationError

from agents.runtime.catalogue import ActionSpec, Catalogue, settings_context
from agents.runtime.context import Context, Services
from agents.runtime.effects import EffectPolicy, idempotency_key
from agents.runtime.errors import ConfigurationError
from agents.runtime.references import secret_name
from agents.runtime.roles import RoleSpec, where
from agents.runtime.running import without_effect
from agents.runtime.secrets import secrets_in
from schemas import JsonObject, Step, StepResult

_ROLE_PREFIX: Final = "executor_"

_log = structlog.get_logger(__name__)

SettingsT_co = TypeVar("SettingsT_co", bound=BaseModel, covariant=True)
SettingsT = TypeVar("SettingsT", bound=BaseModel)
ClientT = TypeVar("ClientT")


@dataclass(frozen=True, slots=True)
class Job(Generic[SettingsT_co]):
    """One call of an executor."""

    step: Step
    action: ActionSpec
    settings: SettingsT_co
    """What stands under ``with`` in the catalogue, validated."""
    ctx: Context
    deadline: datetime
    """When this call is given up, by the clock of ``ctx``."""
    revealed: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The values of the parameters that name a secret, by parameter."""

    @property
    def idempotency_key(self) -> str:
        """The same for every call that means this effect."""
        return idempotency_key(self.step, self.ctx)

    @property
    def parameters(self) -> JsonObject:
        """The step's parameters, checked, with references resolved and secrets filled in."""
        return {**self.step.parameters, **self.revealed}

    @property
    def seconds_left(self) -> float:
        """The time until the deadline."""
        return max((self.deadline - self.ctx.now()).total_seconds(), 0.0)

    async def values(self, *templates: JsonValue) -> Mapping[str, str]:
        """What ``templates`` may name beside parameters; as ``Services.values``."""
        return await self.ctx.services.values(*templates)


def _secret_parameters(step: Step, action: ActionSpec) -> dict[str, str]:
    """By parameter, the secret that it names, where the catalogue lets it name one.

    What looks like the name of a secret in any other parameter is a text like all others.
    """
    return {
        name: secret
        for name, spec in action.parameters.items()
        if spec.secrets is not None
        and (secret := secret_name(step.parameters.get(name))) is not None
    }


@dataclass(frozen=True)
class ExecutorSpec:
    """What the decorator was told about an executor."""

    name: str
    settings: type[BaseModel]
    client: Callable[[Services], AbstractAsyncContextManager[Any]]
    call: Callable[[Job[Any], Any], Awaitable[JsonObject]]


_Function = Callable[[Job[SettingsT], ClientT], Awaitable[JsonObject]]


@overload
def executor(
    name: str, *, settings: type[SettingsT]
) -> Callable[[_Function[SettingsT, None]], _Function[SettingsT, None]]: ...


@overload
def executor(
    name: str,
    *,
    settings: type[SettingsT],
    client: Callable[[Services], AbstractAsyncContextManager[ClientT]],
) -> Callable[[_Function[SettingsT, ClientT]], _Function[SettingsT, ClientT]]: ...


def executor(
    name: str,
    *,
    settings: type[Any],
    client: Callable[[Services], AbstractAsyncContextManager[Any]] = lambda _: nullcontext(),
) -> Callable[[_Function[Any, Any]], _Function[Any, Any]]:
    """Declare a function as the executor ``name``.

    Args:
        name: What actions name as their ``executor``.
        settings: The model of an action's ``with``. It is validated with the context
            :func:`~agents.runtime.catalogue.settings_context` of the action.
        client: Opens what the function needs as its second argument, once per process; without
            it, the function is given ``None``.
    """

    def declare(function: _Function[Any, Any]) -> _Function[Any, Any]:
        spec = ExecutorSpec(name, settings, client, function)
        function.__executor__ = spec  # type: ignore[attr-defined]  # a function takes attributes
        function.__role__ = _role_of(spec)  # type: ignore[attr-defined]  # as above
        return function

    return declare


def executor_of(function: Callable[..., Any]) -> ExecutorSpec:
    """The declaration of a decorated function.

    Raises:
        ConfigurationError: The function carries no ``@executor``.
    """
    spec = getattr(function, "__executor__", None)
    if not isinstance(spec, ExecutorSpec):
        raise ConfigurationError(f"{where(function)}: the function carries no @executor")
    return spec


def read_settings(spec: ExecutorSpec, catalogue: Catalogue) -> Mapping[str, BaseModel]:
    """The settings of all of an executor's actions, by action.

    Raises:
        ConfigurationError: Some are wrong; all problems are named.
    """
    settings: dict[str, BaseModel] = {}
    problems: list[str] = []
    for action in catalogue.actions.values():
        if action.executor != spec.name:
            continue
        context = settings_context(action, catalogue.connections)
        try:
            settings[action.id] = spec.settings.model_validate(action.settings, context=context)
        except ValidationError as error:
            problems.extend(
                f"{action.source}: {action.id}: "
                f"{'.'.join(['with', *map(str, detail['loc'])])}: {detail['msg']}"
                for detail in error.errors(include_url=False)
            )
    if problems:
        raise ConfigurationError("\n".join(problems))
    return settings


async def _warn_of_missing(spec: ExecutorSpec, services: Services) -> None:
    """Say at start-up which secrets are not there; their actions fail, and all others work."""
    named = {
        action.id: secrets_in(action.settings)
        for action in services.catalogue.actions.values()
        if action.executor == spec.name
    }
    names = frozenset[str]().union(*named.values())
    for name, reason in (await services.secrets.missing(names)).items():
        actions = sorted(action for action in named if name in named[action])
        _log.warning("secret_missing", executor=spec.name, actions=actions, reason=reason)


def _role_of(spec: ExecutorSpec) -> RoleSpec:
    @asynccontextmanager
    async def lifespan(services: Services) -> AsyncIterator[EffectPolicy]:
        settings = read_settings(spec, services.catalogue)
        await _warn_of_missing(spec, services)
        async with spec.client(services) as client:

            async def call(
                step: Step, action: ActionSpec, ctx: Context, deadline: datetime
            ) -> JsonObject:
                named = _secret_parameters(step, action)
                with without_effect():
                    secrets = await ctx.services.secrets.reveal(named.values())
                return await spec.call(
                    Job(
                        step=step,
                        action=action,
                        settings=settings[action.id],
                        ctx=ctx,
                        deadline=deadline,
                        revealed={name: secrets[secret] for name, secret in named.items()},
                    ),
                    client,
                )

            yield EffectPolicy(spec.name, call)

    async def handle_once(step: Step, ctx: Context) -> StepResult:
        """Handle one step with a client of its own; a host enters ``lifespan`` instead."""
        async with lifespan(ctx.services) as handler:
            return await handler(step, ctx)

    return RoleSpec(
        name=_ROLE_PREFIX + spec.name,
        handler=handle_once,
        consumes=frozenset({Step}),
        emits=frozenset({StepResult}),
        where=where(spec.call),
        executor=spec.name,
        ordered=False,
        lifespan=lifespan,
    )
