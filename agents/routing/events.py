"""What can happen to a run, and what may come of it."""

from dataclasses import dataclass

from agents.routing.run import Run
from agents.runtime.errors import ErrorCode
from agents.runtime.ports import Refusal
from schemas import AgentMessage, Judgement, Payload, Plan, Step


@dataclass(frozen=True, slots=True)
class Wakeup:
    """The time that a run asked to be woken at has come."""


@dataclass(frozen=True, slots=True)
class BrokerLost:
    """The broker that carried the run is gone with its topics."""


@dataclass(frozen=True, slots=True)
class GivenUp:
    """The router cannot handle a message, or cannot wake a run where there is none: a bug."""

    message: AgentMessage[Payload] | None
    code: ErrorCode
    reason: str


Event = AgentMessage[Payload] | Wakeup | BrokerLost | GivenUp


@dataclass(frozen=True, slots=True)
class Moved:
    """The next version of a run, and the steps that start because of it."""

    run: Run
    dispatch: tuple[Step, ...] = ()
    judgement: Judgement | None = None
    """The verdict that made it move, if one did."""
    plan: Plan | None = None
    """The plan as it goes to be judged again, where it does."""


Answer = Moved | Refusal | None
"""``None``: the event changes nothing, such as a result of an attempt that is over."""
