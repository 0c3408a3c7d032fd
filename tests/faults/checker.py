"""Says what is wrong with what a run has left behind. Pure: it judges an :class:`Evidence`.

Each check is a function that yields one sentence per fault that it finds; :data:`CHECKS` lists
them under the name by which tests speak of them.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Final, cast
from uuid import UUID

from faults.evidence import TOPOLOGY, Evidence, Row
from faults.reading import Reading

from agents.runtime.context import Context
from agents.runtime.effects import idempotency_key
from agents.sink.rows import ExecutionRow, StepRow, execution_row, step_row
from agents.sink.values import jsonb
from schemas import (
    AgentMessage,
    Command,
    ExecutionReport,
    ExecutionRequest,
    ExecutionState,
    Step,
    StepResult,
)
from schemas.identity import derive_message_id

_OUTCOME_INDEX: Final = 1000
_MOST_STEPS: Final = 64
_INDICES: Final = (*range(_MOST_STEPS), _OUTCOME_INDEX)
"""Which messages a role may write because of one: its own, and the outcome of the runtime."""
_WORDS_OF_EFFECTS: Final = {
    "success": "done",
    "failed": "failed",
    "unknown": "unknown",
    "skipped": "failed",  # it waited for another attempt when the execution was stopped
}
_SHOWN: Final = 12


def check(evidence: Evidence) -> dict[str, list[str]]:
    """Every fault by the name of the check that found it; empty when all is well."""
    reading = Reading(evidence)
    found = {name: list(each(evidence, reading)) for name, each in CHECKS.items()}
    return {name: faults for name, faults in found.items() if faults}


def described(faults: Mapping[str, Sequence[str]]) -> str:
    """The faults as text for a person, not too long."""
    lines: list[str] = []
    for name, sentences in faults.items():
        lines.append(f"{name} ({len(sentences)}):")
        lines += [f"  - {sentence}" for sentence in sentences[:_SHOWN]]
    return "\n".join(lines)


def one_terminal_state(evidence: Evidence, reading: Reading) -> Iterator[str]:
    """Every accepted request ends in exactly one terminal state and has one report of it."""
    reports = Counter(
        m.correlation_id for m in reading.distinct if isinstance(m.payload, ExecutionReport)
    )
    executions = {
        m.correlation_id for m in reading.distinct if isinstance(m.payload, ExecutionRequest)
    }
    for execution in sorted(evidence.submitted - executions):
        yield f"the request of {execution} was confirmed and is not on the topic"
    for execution in sorted(executions):
        states = reading.states.get(execution, ())
        terminal = Counter(s.payload.run_no for s in states if s.payload.status.is_terminal)
        if set(terminal.values()) != {1}:
            seen = [f"v{s.payload.version} {s.payload.status.value}" for s in states]
            yield f"{execution} has terminal states per run {dict(terminal)}: {', '.join(seen)}"
        elif reports[execution] != len(terminal):
            yield f"{execution} has {reports[execution]} reports of {len(terminal)} ended runs"
    for row in evidence.runs:
        if row["is_open"]:
            yield f"run {row['correlation_id']} is still open, {row['status']}"


def used_ids_are_refused(_evidence: Evidence, reading: Reading) -> Iterator[str]:
    """Of several requests under one correlation id one runs, and the others are dead letters."""
    for execution, requests in reading.asked.items():
        run = reading.requests_run(execution)
        if len(run) > 1:
            yield f"{execution} ran for {len(run)} requests"
        if lost := requests - run - reading.refused.get(execution, set()):
            yield f"{execution}: request {min(lost)} was neither run nor refused"


def history_shows_what_ran(evidence: Evidence, reading: Reading) -> Iterator[str]:
    """The request and the plan of an execution are those that its newest state names."""
    for row in evidence.executions:
        if states := reading.states.get(row["correlation_id"]):
            newest = states[-1].payload
            for name in ("request_id", "plan_id", "plan_hash"):
                if row[name] != (named := getattr(newest, name)):
                    yield f"{row['correlation_id']}: {name} is {row[name]}, the state says {named}"


def events_equal_topics(evidence: Evidence, reading: Reading) -> Iterator[str]:
    """No event is lost, added or changed: history holds what the topics hold, each message once."""
    expected = {
        (m.received_at.date(), m.correlation_id, m.message_id): m
        for m in reversed(reading.messages)
        if not isinstance(m.payload, ExecutionState)
    }
    stored = {(r["received_on"], r["correlation_id"], r["message_id"]): r for r in evidence.events}
    for key in expected.keys() - stored.keys():
        yield f"{expected[key].message_type} {key[2]} of {key[1]} is lost"
    for key in stored.keys() - expected.keys():
        yield f"{stored[key]['message_type']} {key[2]} of {key[1]} is on no topic"
    for key in expected.keys() & stored.keys():
        if stored[key]["payload"] != json.loads(jsonb(expected[key].payload)):
            yield f"{expected[key].message_type} {key[2]} of {key[1]} has another payload"


def repetitions_are_identical(_evidence: Evidence, reading: Reading) -> Iterator[str]:
    """A message that was written twice says the same both times.

    But for one: a late owner who knows what became of an effect in doubt says so.
    """
    payloads: dict[UUID, bytes] = {}
    in_doubt = {m.message_id for m in reading.messages if _is_in_doubt(m)}
    for message in reading.messages:
        if message.message_id in in_doubt:
            continue
        payload = message.payload.model_dump_json().encode()
        if payloads.setdefault(message.message_id, payload) != payload:
            yield f"{message.message_type} {message.message_id} was written with two payloads"


def _is_in_doubt(message: AgentMessage[Any]) -> bool:
    return isinstance(message.payload, StepResult) and message.payload.status == "unknown"


def chain_is_complete(_evidence: Evidence, reading: Reading) -> Iterator[str]:
    """Every message has its cause, and its id follows from the event that was handled."""
    by_execution: dict[UUID, list[AgentMessage[Any]]] = defaultdict(list)
    for message in reading.distinct:
        by_execution[message.correlation_id].append(message)
    for execution, messages in by_execution.items():
        known = {m.message_id for m in messages}
        timers = {_timer(m) for m in messages if isinstance(m.payload, ExecutionState)}
        for message in messages:
            cause = message.causation_id
            what = f"{message.message_type} {message.message_id} of {execution}"
            if cause is None:
                if not isinstance(message.payload, ExecutionRequest | Command):
                    yield f"{what} has no cause"
            elif cause not in known:
                yield f"{what} was caused by {cause}, which is on no topic"
            else:
                handled = known | timers if message.from_agent == "router" else {cause}
                if message.message_id not in _derived(message, handled):
                    yield f"the id of {what} does not follow from what was handled"


def _derived(message: AgentMessage[Any], causes: Iterable[UUID]) -> set[UUID]:
    return {
        derive_message_id(
            lane=message.lane,
            correlation_id=message.correlation_id,
            role=message.from_agent,
            cause=cause,
            index=index,
        )
        for cause in causes
        for index in _INDICES
    }


def _timer(state: AgentMessage[ExecutionState]) -> UUID:
    """The id of the event that wakes the run in this state."""
    return derive_message_id(
        lane=state.lane,
        correlation_id=state.correlation_id,
        role="router",
        cause=f"Wakeup:{state.payload.version}",
        index=0,
    )


def states_are_in_order(_evidence: Evidence, reading: Reading) -> Iterator[str]:
    """The versions of a run appear one after the other, without a gap; repetitions may follow."""
    for execution, states in reading.states.items():
        versions = [s.payload.version for s in states]
        if versions != list(range(1, len(versions) + 1)):
            yield f"the states of {execution} first appear in the order {versions}"


def projections_equal_fold(evidence: Evidence, reading: Reading) -> Iterator[str]:
    """The read model is what a fold of all records gives."""
    model = reading.model
    yield from _differences(
        "execution",
        {
            (d.correlation_id,): _columns(execution_row(evidence.lane, d)._asdict())
            for d in model.executions.values()
        },
        {(r["correlation_id"],): _columns(r) for r in evidence.executions},
        ExecutionRow._fields,
    )
    yield from _differences(
        "step",
        {d.key: _columns(step_row(evidence.lane, d)._asdict()) for d in model.steps.values()},
        {(r["correlation_id"], r["run_no"], r["step_id"]): _columns(r) for r in evidence.steps},
        StepRow._fields,
    )


_JSON_COLUMNS: Final = frozenset({"verdict_reasons", "parameters", "output", "failure"})


def _columns(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: json.loads(value) if name in _JSON_COLUMNS and isinstance(value, str) else value
        for name, value in row.items()
    }


def _differences(
    what: str,
    expected: Mapping[tuple[Any, ...], Row],
    stored: Mapping[tuple[Any, ...], Row],
    fields: Sequence[str],
) -> Iterator[str]:
    for key in expected.keys() - stored.keys():
        yield f"{what} {key} has no row"
    for key in stored.keys() - expected.keys():
        yield f"{what} {key} has a row and no message"
    for key in expected.keys() & stored.keys():
        for name in fields:
            if expected[key][name] != stored[key][name]:
                yield (
                    f"{what} {key}: {name} is {stored[key][name]!r}, not {expected[key][name]!r}"
                )


def effects_happen_once(evidence: Evidence, reading: Reading) -> Iterator[str]:
    """No effect happens twice; of a step that succeeded it happened, of one that failed not."""
    ledger = {(r["correlation_id"], r["run_no"], r["step_id"]): r for r in evidence.effects}
    ends = {
        (execution, states[-1].payload.run_no, step.step_id): step.status
        for execution, states in reading.states.items()
        for step in states[-1].payload.steps
    }
    dispatched = {
        (m.correlation_id, m.payload.run_no, m.payload.step_id): m
        for m in reading.distinct
        if isinstance(m.payload, Step)
    }
    for key, message in dispatched.items():
        end, what = ends.get(key), f"{message.payload.action} {key[2]} of {key[0]}"
        held = ledger.get(key)
        status = None if held is None else held["status"]
        # Whoever held an effect in doubt may settle it when the execution has ended as unknown.
        was_settled_late = end == "unknown" and status in ("done", "failed")
        if status != _WORDS_OF_EFFECTS.get(end or "") and not was_settled_late:
            yield f"{what} ended as {end}, but the ledger says {status}"
        if message.payload.effect == "effect":
            times = evidence.calls.get(_key(message), 0)
            if times > 1:
                yield f"{what} took effect {times} times"
            elif (end, times) in {("success", 0), ("failed", 1), ("skipped", 1)}:
                yield f"{what} ended as {end} and took effect {times} times"


def money_is_accounted_for(evidence: Evidence, reading: Reading) -> Iterator[str]:
    """Nothing is held back once all has ended, and what executions have cost is what was spent."""
    spent: Counter[UUID] = Counter()
    drawn: Counter[str] = Counter()
    for held in evidence.reservations:
        execution = held["correlation_id"]
        spent[execution] += held["spent"]
        drawn.update(dict.fromkeys(held["periods"], held["spent"]))
        if held["is_open"]:
            yield f"{held['amount']} is still held back for {execution}"
    for execution, states in reading.states.items():
        cost = states[-1].payload.cost.total
        if spent[execution] != cost:
            yield f"{execution} has cost {cost}, and {spent[execution]} was spent for it"
    for used in evidence.spending:
        period = used["period"]
        if used["reserved"]:
            yield f"{used['reserved']} is still reserved in {period}"
        if used["spent"] != drawn[period]:
            yield f"{used['spent']} was spent in {period}, but {drawn[period]} by executions"


def _key(message: AgentMessage[Step]) -> str:
    # Of its context, the key depends on these two alone.
    context = SimpleNamespace(lane=message.lane, correlation_id=message.correlation_id)
    return idempotency_key(message.payload, cast("Context", context))


def sink_accounts_for_every_record(evidence: Evidence, _reading: Reading) -> Iterator[str]:
    """The stored positions are the topics' ends, and have never gone back or jumped."""
    stored = {(r["topic"], r["partition"]): r for r in evidence.sink_offsets}
    for place, end in evidence.ends.items():
        row = stored.get(place)
        position = 0 if row is None else row["next_offset"]
        if position != end:
            yield f"the sink is at {position} of {place}, which ends at {end}"
        elif row is not None and row["topic_id"] != evidence.topic_ids[place[0]]:
            yield f"the sink's position of {place} belongs to another topic"
    for move in evidence.moves:
        if move.after < move.before:
            place = (move.topic, move.partition)
            yield f"the sink's position of {place} went back from {move.before} to {move.after}"


def poison_is_kept_once(evidence: Evidence, reading: Reading) -> Iterator[str]:
    """Every record that nobody can read is in history once, with the bytes that it came with.

    Where a role is to read the topic, that role has made one dead letter of it.
    """
    somebody_reads = {
        spec.name_in(evidence.lane): spec.primary for spec in TOPOLOGY.topics.values()
    }
    letters = Counter(
        (r["origin_topic"], r["origin_partition"], r["origin_offset"])
        for r in evidence.dead_letters
    )
    poison = {(r.topic, r.partition, r.offset): r for r in reading.poison}
    kept = {(r["topic"], r["partition"], r["offset"]): r for r in evidence.unreadable}
    for place, record in poison.items():
        if somebody_reads[record.topic] and letters[place] != 1:
            yield f"the unreadable record {place} has {letters[place]} dead letters"
        row = kept.get(place)
        if row is None or (row["key"], row["value"]) != (record.key, record.value):
            yield f"the unreadable record {place} is not kept as it came"
    for place in kept.keys() - poison.keys():
        yield f"{place} is kept as unreadable, and is not"
    places = {(r.topic, r.partition, r.offset): r for r in evidence.records}
    for row in evidence.dead_letters:
        place = (row["origin_topic"], row["origin_partition"], row["origin_offset"])
        origin = places.get(place)
        if origin is None or (row["key"], row["value"]) != (origin.key, origin.value):
            yield f"the dead letter of {place} has other bytes"
        elif place not in poison and not (
            (row["role"], row["code"]) == ("router", "correlation_id_in_use")
            and reading.is_rightly_refused(evidence.decode(origin))
        ):
            yield f"{place} is a dead letter of {row['role']}: {row['code']}, {row['reason']}"


def nothing_is_left(evidence: Evidence, _reading: Reading) -> Iterator[str]:
    """No message waits in the outbox, and no group has anything to read."""
    if evidence.outbox:
        yield f"{evidence.outbox} messages are in the outbox"
    for group, lag in evidence.lags.items():
        if lag:
            yield f"group {group} lags by {lag}"


Check = Callable[[Evidence, Reading], Iterator[str]]
CHECKS: Final[Mapping[str, Check]] = {
    each.__name__: each
    for each in (
        one_terminal_state,
        used_ids_are_refused,
        history_shows_what_ran,
        events_equal_topics,
        repetitions_are_identical,
        chain_is_complete,
        states_are_in_order,
        projections_equal_fold,
        effects_happen_once,
        money_is_accounted_for,
        sink_accounts_for_every_record,
        poison_is_kept_once,
        nothing_is_left,
    )
}
"""Every check by its name."""
