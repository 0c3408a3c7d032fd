"""What people must say before a plan may run, and what they have said.

A verdict that is ``needs_approval`` names obligations; the router collects approvals until they
are met and then has the plan judged again, with the approvals among the judge's inputs. Both count
with :func:`unmet`, so that they cannot disagree.
"""

import unicodedata
from collections.abc import Iterable
from typing import Annotated
from uuid import UUID

from pydantic import Field

from schemas.base import Model, Name, StepId, Text, UtcDatetime


class Obligation(Model):
    """So many different people must approve, none of whom is the requester."""

    policy: Name
    """The id of the policy or catalogue rule that asks for it."""
    approvers: Annotated[int, Field(ge=1, le=20)] = 1
    """How many different people."""
    users: tuple[Name, ...] = ()
    """Who may, by name; with neither users nor groups anybody may who is known."""
    groups: tuple[Name, ...] = ()
    """Who may, as members of one of these."""
    step_id: StepId | None = None
    """The step that it is about, where it is about one."""
    expires_after: Annotated[float, Field(gt=0, le=2_592_000)] = 3600.0
    """Seconds from the verdict on; the execution expires when it is not met by then."""

    def admits(self, name: str, groups: Iterable[str]) -> bool:
        """Whether the approval of ``name``, a member of ``groups``, counts towards it."""
        if not self.users and not self.groups:
            return True
        return any(is_same_person(name, user) for user in self.users) or any(
            group in self.groups for group in groups
        )


class Approval(Model):
    """One person's yes to the very plan that it travels with."""

    approver: Name
    groups: tuple[Name, ...] = ()
    """The approver's groups, by the deployment's list of principals."""
    reason: Text | None = None
    approved_at: UtcDatetime
    """When the router took it."""
    command_id: UUID
    is_signed: bool
    """Whether a signature proved who it was, rather than the topic's access rules."""


class ApprovalRequest(Model):
    """Where the approval of an execution stands."""

    evaluation: Annotated[int, Field(ge=1)]
    """The newest evaluation of the plan that was asked for; no other verdict is taken."""
    obligations: tuple[Obligation, ...]
    approvals: tuple[Approval, ...] = ()
    expires_at: UtcDatetime | None
    """When it is too late; ``None`` while the plan is being judged again."""

    @property
    def is_waiting(self) -> bool:
        """Whether people are waited for, rather than the safety checker."""
        return self.expires_at is not None


def is_same_person(one: str, other: str) -> bool:
    """Whether two names mean one person, whatever their case, width, spaces and invisible signs."""
    return _folded(one) == _folded(other)


def unmet(
    obligations: Iterable[Obligation], approvals: Iterable[Approval], *, requester: str
) -> tuple[Obligation, ...]:
    """The obligations that want more people than have approved; the requester never counts."""
    lacking = _lacking(obligations, approvals, requester)
    return tuple(obligation for obligation, people in lacking if people > 0)


def remaining(
    obligations: Iterable[Obligation], approvals: Iterable[Approval], *, requester: str
) -> tuple[Obligation, ...]:
    """Those that are :func:`unmet`, each for the number of people that are still wanted."""
    lacking = _lacking(obligations, approvals, requester)
    return tuple(
        obligation.replace(approvers=people) for obligation, people in lacking if people > 0
    )


def _lacking(
    obligations: Iterable[Obligation], approvals: Iterable[Approval], requester: str
) -> list[tuple[Obligation, int]]:
    by_person = {
        _folded(approval.approver): approval
        for approval in approvals
        if not is_same_person(approval.approver, requester)
    }
    return [
        (each, each.approvers - sum(each.admits(p.approver, p.groups) for p in by_person.values()))
        for each in obligations
    ]


def _folded(name: str) -> str:
    visible = "".join(sign for sign in name if unicodedata.category(sign) != "Cf")
    return unicodedata.normalize("NFKC", visible).strip().casefold()
