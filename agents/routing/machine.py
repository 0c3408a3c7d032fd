"""The state machine: a run and an event give the next run and the steps to dispatch.

Pure: time, jitter and the event come in as arguments, nothing goes out but the answer. What each
kind of event does has a module of its own; :mod:`agents.routing.transitions` has the moves.
"""

from datetime import datetime

from agents.routing import resolving
from agents.routing.attempts import take
from agents.routing.beginnings import conclude, judge
from agents.routing.breaking_off import give_up, lose, wake
from agents.routing.control import obey
from agents.routing.deadlines import Limits
from agents.routing.events import Answer, BrokerLost, Event, GivenUp, Wakeup
from agents.routing.progress import progress
from agents.routing.run import Run
from agents.runtime.ports import Refusal
from agents.runtime.principals import Issuer
from schemas import AgentMessage, Command, Outcome, Payload, StepResult, Verdict

_DEFAULT_LIMITS = Limits()


def react(
    run: Run | None,
    event: Event,
    *,
    now: datetime,
    jitter: float,
    broker_id: str,
    limits: Limits = _DEFAULT_LIMITS,
    issuer: Issuer | Refusal | None = None,
    resolved: StepResult | Refusal | None = None,
) -> Answer:
    """What ``event`` makes of ``run``.

    Args:
        run: The execution so far; ``None`` when the router sees it for the first time.
        event: A message of one of the router's topics, or something that happened by itself.
        now: The moment of the decision.
        jitter: Between 0 and 1; spreads retries of steps that failed together.
        broker_id: The broker that a new run belongs to.
        limits: How long things may take.
        issuer: Who stands behind a command, or why that cannot be said.
        resolved: For a ``resolve``: what the ledger holds of the effect, or why not what was said.
    """
    match event:
        case GivenUp():
            return give_up(run, event, now, jitter, broker_id)
        case AgentMessage(payload=Verdict() as verdict):
            return judge(run, event, verdict, now, broker_id)
        case AgentMessage(payload=Outcome() as outcome):
            return conclude(run, event, outcome, now, broker_id)
        case AgentMessage(payload=Command() as command):
            if command.kind == "resolve" and not isinstance(issuer, Refusal):
                return _resolve(run, event, command, resolved, now, broker_id)
            return obey(run, event, command, issuer, now, broker_id)
        case _:
            return None if run is None else _go_on(run, event, now, jitter, broker_id, limits)


def _go_on(
    run: Run, event: Event, now: datetime, jitter: float, broker: str, limits: Limits
) -> Answer:
    """What becomes of a run by what cannot begin one."""
    match event:
        case AgentMessage(payload=StepResult() as result):
            return take(run, event, result, now, jitter)
        case Wakeup():
            return wake(run, now, jitter, limits)
        case BrokerLost():
            return lose(run, now, broker)
        case _:
            raise TypeError(f"the router takes no {event}")


def _resolve(
    run: Run | None,
    message: AgentMessage[Payload],
    command: Command,
    resolved: StepResult | Refusal | None,
    now: datetime,
    broker: str,
) -> Answer:
    if resolved is None:
        raise ValueError("a resolve comes with what the ledger holds")
    if isinstance(resolved, Refusal):
        return resolved
    moved = resolving.resolve(run, command, resolved, broker_id=broker, now=now)
    return moved if isinstance(moved, Refusal) else progress(moved, message.message_id, now)
