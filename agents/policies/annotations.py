"""What annotations of a policy mean, and what is wrong with them.

====================== ===========================================================================
``@id``                its name in verdicts, such as ``production.approval``; always there
``@reason``            why it forbids, in a sentence; always there on a ``forbid``
``@remedy``            what would make the plan pass; on a ``forbid`` that nothing lifts
``@approvals``         makes a ``forbid`` one that so many different people can lift
``@approver_groups``   the groups of which an approver must be in one, separated by commas
``@approver_users``    people who may approve beside them
``@approvals_expire``  how long approval is waited for, such as ``4h``
====================== ===========================================================================

Reasons and remedies may name ``{deed}`` (the action and what it is done to), ``{action}``,
``{requester}``, ``{tenant}`` and ``{risk}``.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from agents.policies.cedar import PolicyEffect
from agents.runtime.declarations import did_you_mean, parse_duration, show
from schemas import Obligation

PLACEHOLDER: Final = re.compile(r"\{(\w*)\}")
PLACEHOLDERS: Final = ("action", "deed", "requester", "risk", "tenant")

Annotations = Mapping[str, str]
Mistake = tuple[str, str]
"""What is wrong, and what was expected."""

_MOST_APPROVERS: Final = 20
_LONGEST_WAIT: Final = 2_592_000.0
"""Seconds: 30 days; both limits are those of an obligation."""
_OF_PEOPLE: Final = ("approver_groups", "approver_users")
_OF_APPROVALS: Final = (*_OF_PEOPLE, "approvals_expire")
_ANNOTATIONS: Final = ("id", "reason", "remedy", "approvals", *_OF_APPROVALS)
_ID: Final = re.compile(r"[a-z][a-z0-9-]*(\.[a-z0-9][a-z0-9-]*)*")
_LONGEST_ID: Final = 120


def mistakes_in(given: Annotations, effect: PolicyEffect) -> Iterator[Mistake]:
    """All that is wrong with the annotations of a policy."""
    for name in sorted(given.keys() - set(_ANNOTATIONS)):
        expected = f"one of {', '.join('@' + known for known in _ANNOTATIONS)}"
        yield f"@{name} means nothing", expected + did_you_mean(name, _ANNOTATIONS)
    policy_id = given.get("id", "")
    if not _ID.fullmatch(policy_id) or len(policy_id) > _LONGEST_ID:
        yield f"@id is {show(policy_id)}", '@id("…") with a name such as production.approval'
    yield from _by_effect(given, effect)
    yield from _in_texts(given)
    if "approvals" in given:
        yield from _in_number(given["approvals"])
        yield from _in_people(given)
        yield from _in_expiry(given.get("approvals_expire"))
    else:
        for name in sorted(given.keys() & set(_OF_APPROVALS)):
            yield f"@{name} without @approvals", '@approvals("1") beside it'


def obligation_in(given: Annotations) -> Obligation | None:
    """What lifts a policy with these annotations, which are sound; ``None`` where nothing does."""
    if "approvals" not in given:
        return None
    obligation = Obligation(
        policy=given["id"],
        approvers=int(given["approvals"]),
        users=_listed(given.get("approver_users")),
        groups=_listed(given.get("approver_groups")),
    )
    expiry = given.get("approvals_expire")
    if expiry is None:
        return obligation
    return obligation.model_copy(update={"expires_after": parse_duration(expiry).total_seconds()})


def _by_effect(given: Annotations, effect: PolicyEffect) -> Iterator[Mistake]:
    if effect == "permit":
        for name in ("approvals", "remedy"):
            if name in given:
                yield f"a permit has no @{name}", f"@{name} on a forbid"
        return
    if not given.get("reason"):
        yield "it forbids without a reason", '@reason("…") in a sentence for the requester'
    if not given.get("remedy") and "approvals" not in given:
        yield (
            "it does not say what would make a plan pass",
            '@remedy("…"), or @approvals("1") where approval lifts it',
        )


def _in_texts(given: Annotations) -> Iterator[Mistake]:
    known = ", ".join(f"{{{each}}}" for each in PLACEHOLDERS)
    for name in ("reason", "remedy"):
        for placeholder in PLACEHOLDER.findall(given.get(name, "")):
            if placeholder not in PLACEHOLDERS:
                yield f"@{name} names {{{placeholder}}}", f"one of {known}"


def _in_number(approvals: str) -> Iterator[Mistake]:
    is_number = re.fullmatch(r"[0-9]{1,4}", approvals) is not None
    if not is_number or not 1 <= int(approvals) <= _MOST_APPROVERS:
        expected = f'a number of people from 1 to {_MOST_APPROVERS}, such as @approvals("2")'
        yield f"@approvals is {show(approvals)}", expected


def _in_people(given: Annotations) -> Iterator[Mistake]:
    for name in _OF_PEOPLE:
        if name in given and not all(_listed(given[name])):
            yield f"@{name} is {show(given[name])}", "names, separated by commas"


def _in_expiry(expiry: str | None) -> Iterator[Mistake]:
    if expiry is None:
        return
    try:
        seconds = parse_duration(expiry).total_seconds()
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _LONGEST_WAIT:
        yield f"@approvals_expire is {show(expiry)}", "a duration up to 30d, such as 30m or 4h"


def _listed(names: str | None) -> tuple[str, ...]:
    return () if names is None else tuple(name.strip() for name in names.split(","))
