"""What policies are asked about a step, and everything that they may see of it.

The context of a question:

- ``parameters``: those whose values are known. One that refers to the output of an earlier step is
  not there before that step has ended; policies ask for it with ``has``. Numbers with a fraction
  have four decimal places, objects and lists are JSON, a secret is its name: ``${secret:NAME}``.
- ``effect`` (read, idempotent or effect), ``risk`` (low, medium or high), ``executor``.
- ``cost``: what the step is expected to cost, in parts and in ``total``, in millionths of a US
  dollar. ``plan.cost``: the whole plan's; ``plan.steps``: how many steps it has.
- ``time``, in the deployment's time zone: ``hour``, ``minute``, ``weekday`` (1 for Monday, 7 for
  Sunday), ``date`` as a number (20260131).
- ``approvals``: how many different people other than the requester have approved the plan;
  ``approvers``: their names.
- ``lane``: empty for production.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, tzinfo
from decimal import ROUND_UP, Decimal
from itertools import product
from typing import Any, Final

from pydantic import JsonValue
from pydantic_core import to_json

from agents.policies.cedar import Question
from agents.policies.interest import Interest
from agents.policies.schema import entity_type
from agents.runtime import references
from agents.runtime.catalogue import ENVIRONMENT, ActionSpec, ValueType
from schemas import (
    ANONYMOUS,
    Approval,
    CostEstimate,
    JsonObject,
    Plan,
    PlanStep,
    is_same_person,
)

_PLACES: Final = Decimal("0.0001")

Target = Mapping[str, str]
"""Kind → name of the thing that a step is about, environments included."""


class Asker:
    """Makes the questions about the steps of a plan.

    Args:
        plan: With who asks for it, and who has approved it.
        tenant: Who it is accounted to.
        lane: The lane of its execution.
        moment: The time that policies see.
        zone: Where it is that time.
        interest: What the policies look at; the rest of the context is left blank.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        tenant: str,
        lane: str,
        moment: datetime,
        zone: tzinfo,
        interest: Interest,
    ) -> None:
        people = approvals_by_others(plan)
        self._interest = interest
        self._user = _user(plan, tenant, interest)
        # The same for each step of the plan.
        self._facts = self._blanked(
            {
                "plan": {"steps": len(plan.steps), "cost": _millionths(plan.cost.total)},
                "time": _time(moment, zone),
                "approvals": len(people),
                "approvers": sorted(approval.approver for approval in people),
                "lane": lane,
            }
        )

    def questions(
        self, step: PlanStep, action: ActionSpec, *, resolved: bool
    ) -> Iterator[tuple[Target, Question]]:
        """What to ask about ``step``: once for each combination of things that it is about.

        Args:
            step: Its parameters are of the types that the catalogue says.
            action: The step's action.
            resolved: Whether its parameters are final, rather than perhaps references.
        """
        known = step.parameters if resolved else _known(step.parameters)
        facts = self._blanked(
            {
                "effect": action.effect,
                "risk": action.risk,
                "executor": action.executor,
                "cost": _cost(step.cost),
            }
        )
        parameters = {
            name: _value(value, action.parameters[name].type)
            for name, value in known.items()
            if self._interest.covers("parameters", name)
        }
        context = _json({**self._facts, **facts, "parameters": parameters})
        for target in _targets(known, action):
            entity = _target(target, self._interest)
            yield (
                target,
                Question(
                    user=self._user["uid"]["id"],
                    action=action.id,
                    target=entity["uid"]["id"],
                    entities=_json([self._user, entity]),
                    context=context,
                ),
            )

    def _blanked(self, facts: Mapping[str, Any], *path: str) -> dict[str, Any]:
        """``facts`` with nothing in the place of what no policy looks at."""
        covers = self._interest.covers
        return {
            name: self._blanked(value, *path, name)
            if isinstance(value, dict)
            else (value if covers(*path, name) else type(value)())
            for name, value in facts.items()
        }


def approvals_by_others(plan: Plan) -> Sequence[Approval]:
    """One approval of each person who has approved ``plan``, the requester not among them."""
    people: list[Approval] = []
    for approval in plan.approvals:
        known = (plan.requester, *(other.approver for other in people))
        if not any(is_same_person(approval.approver, name) for name in known):
            people.append(approval)
    return people


def name_of(target: Target) -> str:
    """A target in words: ``checkout in production``; empty where a step names nothing."""
    things = [name for kind, name in target.items() if kind != ENVIRONMENT]
    place = [f"in {target[ENVIRONMENT]}"] if ENVIRONMENT in target else []
    return " ".join([" and ".join(things), *place]).strip()


def _known(parameters: JsonObject) -> JsonObject:
    """The parameters without those that refer to outputs, as they will be handed over."""
    return {
        name: references.resolve(value, {})
        for name, value in parameters.items()
        if not references.find(value)
    }


def _targets(parameters: JsonObject, action: ActionSpec) -> Iterator[Target]:
    """Every combination of one thing of each kind, so that no allowed thing hides another."""
    things: dict[str, dict[str, None]] = {}
    for name, spec in action.parameters.items():
        value = parameters.get(name)
        if spec.entity is not None and isinstance(value, str):
            things.setdefault(spec.entity, {})[value] = None
    for names in product(*things.values()):
        yield dict(zip(things, names, strict=True))


def _user(plan: Plan, tenant: str, interest: Interest) -> dict[str, Any]:
    # Nobody becomes somebody by writing it in another case or width.
    is_nobody = is_same_person(plan.requester, ANONYMOUS)
    name = ANONYMOUS if is_nobody else plan.requester
    sees_name = interest.sees("principal", "name")
    groups = [{"type": "Group", "id": group} for group in plan.groups]
    return {
        "uid": {"type": "User", "id": name if sees_name else _named("User", name, interest)},
        "attrs": {"name": name if sees_name else ""},
        "parents": _named_of([{"type": "Tenant", "id": tenant}, *groups], interest),
    }


def _target(target: Target, interest: Interest) -> dict[str, Any]:
    things = {kind: {"type": entity_type(kind), "id": thing} for kind, thing in target.items()}
    # A thing that is seen as an attribute can be compared without being named.
    seen = {kind: thing for kind, thing in things.items() if interest.sees("resource", kind)}
    unseen = [thing for kind, thing in things.items() if kind not in seen]
    return {
        "uid": {"type": "Target", "id": _named("Target", name_of(target), interest)},
        "attrs": {kind: {"__entity": thing} for kind, thing in seen.items()},
        "parents": [*seen.values(), *_named_of(unseen, interest)],
    }


def _named_of(entities: Iterable[dict[str, str]], interest: Interest) -> list[dict[str, str]]:
    return [each for each in entities if interest.names(each["type"], each["id"])]


def _named(entity_type: str, name: str, interest: Interest) -> str:
    """``name`` where policies tell it from others, else one that they do not name."""
    if interest.names(entity_type, name) or interest.names(entity_type, ""):
        return name
    return ""


def _value(value: JsonValue, declared: ValueType) -> Any:
    if declared == "number":
        # Away from zero, so that a limit is never passed unseen.
        rounded = Decimal(str(value)).quantize(_PLACES, rounding=ROUND_UP)
        return {"__extn": {"fn": "decimal", "arg": f"{rounded:f}"}}
    if declared in ("object", "array"):
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    return value


def _cost(cost: CostEstimate) -> dict[str, int]:
    return {
        "database_storage": _millionths(cost.database_storage),
        "compute_hours": _millionths(cost.compute_hours),
        "api_calls": _millionths(cost.api_calls),
        "llm_tokens": _millionths(cost.llm_tokens),
        "total": _millionths(cost.total),
    }


def _json(value: Any) -> str:
    return to_json(value).decode()


def _millionths(amount: Decimal) -> int:
    return int(amount * 1_000_000)


def _time(moment: datetime, zone: tzinfo) -> dict[str, int]:
    local = moment.astimezone(zone)
    return {
        "date": local.year * 10_000 + local.month * 100 + local.day,
        "weekday": local.isoweekday(),
        "hour": local.hour,
        "minute": local.minute,
    }
