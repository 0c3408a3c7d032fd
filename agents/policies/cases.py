"""Tests of policies as tables: who asks for what, where, and what must come of it.

They stand beside the policies, in files that end in ``.cases.yaml``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Final
from uuid import UUID

from pydantic import Field

from agents.policies.judging import Judge
from agents.runtime.catalogue import Catalogue
from agents.runtime.catalogue.entries import ActionName
from agents.runtime.declarations import Declaration, Document, did_you_mean
from schemas import Approval, CostEstimate, JsonObject, Plan, PlanStep
from schemas.base import Name, Tenant, UtcDatetime
from schemas.verdict import Decision

SUFFIX: Final = ".cases.yaml"
_NOBODY: Final = UUID(int=0)
_ANY_HASH: Final = "0" * 64


class Who(Declaration):
    """Who asks."""

    user: Name = "ann"
    """Their name"""
    groups: tuple[Name, ...] = ()
    """Their groups"""
    tenant: Tenant = "default"
    """Who it is accounted to"""


class CaseDeclaration(Declaration):
    """One row of the table."""

    who: Who = Who()
    """Who asks"""
    what: ActionName
    """The action"""
    where: JsonObject = Field(default_factory=dict)
    """The parameters that say what it is done to"""
    settings: Annotated[JsonObject, Field(alias="with")] = Field(default_factory=dict)
    """The other parameters"""
    when: UtcDatetime = datetime(2026, 1, 5, 10, tzinfo=UTC)
    """The moment, such as 2026-01-05T10:00:00Z"""
    approved_by: dict[Name, tuple[Name, ...]] = Field(default_factory=dict)
    """Who has approved it, with their groups"""
    cost: Annotated[Decimal, Field(ge=0)] | None = None
    """What it is expected to cost in US dollars; what the catalogue says unless given"""
    outcome: Decision
    """What must come of it: approved, needs_approval or denied"""
    because: tuple[Name, ...] = ()
    """Policies that must have spoken"""


class CasesFile(Declaration):
    """The root of a file of cases."""

    cases: dict[Name, CaseDeclaration]
    """The rows, by a sentence that says what must hold"""


@dataclass(frozen=True, slots=True)
class Case:
    """One row, and where it stands."""

    name: str
    file: str
    line: int
    declared: CaseDeclaration


@dataclass(frozen=True, slots=True)
class CaseResult:
    """What came of a case."""

    case: Case
    outcome: Decision
    reasons: tuple[str, ...]
    spoke: frozenset[str]
    """The policies and rules that spoke."""

    @property
    def silent(self) -> tuple[str, ...]:
        """The policies that should have spoken and did not."""
        return tuple(each for each in self.case.declared.because if each not in self.spoke)

    @property
    def passed(self) -> bool:
        """Whether it came out as the table says."""
        return self.outcome == self.case.declared.outcome and not self.silent


def read_cases(folder: Path, catalogue: Catalogue) -> tuple[Case, ...]:
    """The cases beside the policies of ``folder``.

    Raises:
        DeclarationError: A file of them has problems; all of that file's are named.
    """
    files = sorted(file for file in folder.glob(f"*{SUFFIX}"))
    return tuple(case for file in files for case in _cases_of(file, catalogue))


def run_case(case: Case, judge: Judge, catalogue: Catalogue) -> CaseResult:
    """Judge what ``case`` describes."""
    declared = case.declared
    assessment = judge.judge(
        _plan(declared, catalogue), tenant=declared.who.tenant, lane="", moment=declared.when
    )
    rules = {reason.policy for reason in assessment.reasons}
    return CaseResult(
        case=case,
        outcome=assessment.decision,
        reasons=tuple(reason.text for reason in assessment.reasons),
        spoke=frozenset({*assessment.policies, *rules}),
    )


def unexercised(results: Sequence[CaseResult], judge: Judge) -> tuple[str, ...]:
    """The policies that spoke in none of the cases."""
    spoke = frozenset[str]().union(*(result.spoke for result in results))
    return tuple(each for each in judge.policies.policies if each not in spoke)


def _cases_of(file: Path, catalogue: Catalogue) -> Iterator[Case]:
    document = Document(file, CasesFile)
    sound = document.sound()
    for name, declared in sound.cases.items() if sound is not None else ():
        if declared.what not in catalogue.actions:
            document.report(
                ("cases", name, "what"),
                f"the catalogue has no action {declared.what!r}",
                f"an action of {catalogue.source}" + did_you_mean(declared.what, catalogue.actions),
            )
    for name, declared in document.close(sound).cases.items():
        yield Case(name, str(file), document.line_of(("cases", name)), declared)


def _plan(declared: CaseDeclaration, catalogue: Catalogue) -> Plan:
    action = catalogue.action(declared.what)
    cost = action.cost if declared.cost is None else CostEstimate(api_calls=declared.cost)
    step = PlanStep(
        step_id="only",
        action=action.id,
        parameters=action.complete({**declared.where, **declared.settings}),
        executor=action.executor,
        effect=action.effect,
        risk=action.risk,
        timeout=action.timeout,
        retry=action.retry,
        cost=cost,
    )
    approvals = tuple(
        Approval(
            approver=name,
            groups=groups,
            approved_at=declared.when,
            command_id=_NOBODY,
            is_signed=True,
        )
        for name, groups in declared.approved_by.items()
    )
    return Plan(
        request_id=_NOBODY,
        title=action.description,
        requester=declared.who.user,
        groups=declared.who.groups,
        steps=(step,),
        cost=cost,
        plan_hash=_ANY_HASH,
        approvals=approvals,
    )
