"""Budgets: what a tenant may spend, and the rules by which plans draw on it; pure.

When its verdict is written, a plan reserves what it may cost at most: each step as often as its
retry policy lets it be tried, compensations included. When its run ends, however it ends, the
reservation is released and what the attempts have cost is spent. So ``spent + reserved`` of a
period never passes the cap that stood when the reservation was made.

A reservation belongs to one plan of one execution, and draws on the day and the month, in UTC, in
which it was made, also where its run ends in the next. Who has no budget has no limit, and nothing
is written for them: a period is counted from the moment at which a budget was set for it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, Literal, get_args
from uuid import UUID

from agents.runtime.errors import PermanentError
from schemas import AgentMessage, Plan, Reason, Verdict

Per = Literal["execution", "day", "month"]
"""What a budget is for: all runs of one execution together, a day, or a month."""
PERS: Final[tuple[Per, ...]] = get_args(Per)
FRESH_SECONDS: Final = 2.0
"""For so long a process believes that a tenant has no budget, having last looked."""

TenantKey = tuple[str, str]
"""Lane and tenant."""
PeriodKey = tuple[str, str, str]
"""Lane, tenant and period, such as ``2026-11-23`` or ``2026-11``."""
ReservationKey = tuple[str, UUID, str]
"""Lane, correlation id and plan hash."""

_CODE: Final = "budget_exceeded"
_FORMATS: Final[Mapping[Per, str]] = {"day": "%Y-%m-%d", "month": "%Y-%m"}
_CENTS: Final = Decimal("0.01")


class BudgetExceededError(PermanentError):
    """A plan may cost more than a budget has left.

    Args:
        reasons: What each of the budgets says that have too little, with its figures.
    """

    default_code = _CODE

    def __init__(self, reasons: Sequence[Reason]) -> None:
        super().__init__(" ".join(reason.text for reason in reasons))
        self.reasons = tuple(reasons)


@dataclass(frozen=True, slots=True)
class Budget:
    """What a tenant may spend on one execution, in a day or in a month."""

    tenant: str
    per: Per
    cap: Decimal
    """US dollars."""


@dataclass(frozen=True, slots=True)
class Spending:
    """What has been taken of a budget, in US dollars."""

    spent: Decimal = Decimal(0)
    """What attempts have cost."""
    reserved: Decimal = Decimal(0)
    """What is held back for runs that have not ended."""

    @property
    def taken(self) -> Decimal:
        """Both together: what nobody else can have."""
        return self.spent + self.reserved


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """A budget, and what was taken of it in the period that is running."""

    budget: Budget
    period: str | None
    """Such as ``2026-11-23`` or ``2026-11``; ``None`` for the budget of each execution."""
    spending: Spending

    @property
    def left(self) -> Decimal:
        """What can still be reserved."""
        return max(Decimal(0), self.budget.cap - self.spending.taken)


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one plan of an execution holds back, and what it has spent."""

    tenant: str
    periods: tuple[str, ...]
    """On which it draws; none where only the execution has a budget."""
    amount: Decimal
    """What is held back while it is open."""
    is_open: bool
    reserved_at: datetime
    spent: Decimal = Decimal(0)
    """What its runs that have ended have cost."""


@dataclass(frozen=True, slots=True)
class Settlement:
    """A run has ended, or will never begin: what its plan holds back is free again."""

    plan_hash: str
    actual: Decimal
    """What the run has cost, in US dollars."""


@dataclass(slots=True)
class Accounts:
    """Budgets and what was taken of them: all there is, or what one batch of verdicts needs."""

    budgets: dict[TenantKey, list[Budget]] = field(default_factory=dict)
    spending: dict[PeriodKey, Spending] = field(default_factory=dict)
    reservations: dict[ReservationKey, Reservation] = field(default_factory=dict)

    @classmethod
    def of(cls, lane: str, uses: Iterable[BudgetUse]) -> "Accounts":
        """Those in which as much is taken of each budget as ``uses`` say."""
        accounts = cls()
        for use in uses:
            tenant = use.budget.tenant
            accounts.budgets.setdefault((lane, tenant), []).append(use.budget)
            if use.period is not None:
                accounts.spending[lane, tenant, use.period] = use.spending
        return accounts

    def admit(self, message: AgentMessage[Verdict], now: datetime) -> AgentMessage[Verdict]:
        """``message`` with what it has reserved; denied where a budget has too little left.

        A plan that holds a reservation already, such as one that is judged again after an
        approval, keeps it.
        """
        verdict, tenant = message.payload, (message.lane, message.tenant)
        budgets = self.budgets.get(tenant, ())
        if not budgets or not may_run(verdict):
            return message
        key = (message.lane, message.correlation_id, verdict.plan_hash)
        held = self.reservations.get(key)
        try:
            if held is None or not held.is_open:
                held = self._reserve(key, message.tenant, verdict.plan, budgets, now)
        except BudgetExceededError as error:
            # What asked for approval goes: no approval would change the answer any more.
            denied = verdict.replace(decision="denied", reasons=error.reasons, obligations=())
            return message.replace(payload=denied)
        return message.replace(payload=verdict.replace(reserved=held.amount))

    def settle(self, key: ReservationKey, actual: Decimal) -> None:
        """Release what ``key`` holds back, and count ``actual`` as spent."""
        held = self.reservations.get(key)
        if held is None:
            return
        released = held.amount if held.is_open else Decimal(0)
        self.reservations[key] = replace(held, is_open=False, spent=held.spent + actual)
        for period in held.periods:
            place = (key[0], held.tenant, period)
            used = self.spending.get(place, Spending())
            self.spending[place] = Spending(used.spent + actual, used.reserved - released)

    def uses(self, lane: str, now: datetime) -> Iterator[BudgetUse]:
        """Every budget of a lane with the period that is running, by tenant."""
        for (at, tenant), budgets in sorted(self.budgets.items()):
            if at != lane:
                continue
            for budget in in_order(budgets):
                period = period_of(budget.per, now)
                used = self.spending.get((lane, tenant, period or ""), Spending())
                yield BudgetUse(budget, period, used)

    def _reserve(
        self,
        key: ReservationKey,
        tenant: str,
        plan: Plan,
        budgets: Sequence[Budget],
        now: datetime,
    ) -> Reservation:
        lane, run_id, _ = key
        amount = most_of(plan)
        reasons, periods = [], []
        for budget in in_order(budgets):
            period = period_of(budget.per, now)
            if period is None:
                used = self._taken_by(lane, run_id)
            else:
                periods.append(period)
                used = self.spending.get((lane, tenant, period), Spending())
            if used.taken + amount > budget.cap:
                reasons.append(_objection(plan, amount, BudgetUse(budget, period, used)))
        if reasons:
            raise BudgetExceededError(reasons)
        for period in periods:
            used = self.spending.get((lane, tenant, period), Spending())
            self.spending[lane, tenant, period] = replace(used, reserved=used.reserved + amount)
        before = self.reservations.get(key)
        spent = Decimal(0) if before is None else before.spent
        made = Reservation(tenant, tuple(periods), amount, True, now, spent)
        self.reservations[key] = made
        return made

    def _taken_by(self, lane: str, run_id: UUID) -> Spending:
        """What all plans of one execution together have taken."""
        mine = [held for key, held in self.reservations.items() if key[:2] == (lane, run_id)]
        return Spending(
            sum((held.spent for held in mine), Decimal(0)),
            sum((held.amount for held in mine if held.is_open), Decimal(0)),
        )


def may_run(verdict: Verdict) -> bool:
    """Whether a verdict lets a plan run that costs something, now or once it is approved."""
    return verdict.decision != "denied" and bool(most_of(verdict.plan))


def most_of(plan: Plan) -> Decimal:
    """What a run of ``plan`` may cost at most: each step tried as often as it may be.

    What an earlier run has done is not done again; it may still be undone.
    """
    steps = (step for step in plan.steps if step.step_id not in plan.finished)
    return sum((step.cost.total * step.retry.max_attempts for step in steps), Decimal(0))


def period_of(per: Per, moment: datetime) -> str | None:
    """The day or the month of ``moment`` in UTC; ``None`` where a budget has no period."""
    form = _FORMATS.get(per)
    return None if form is None else moment.astimezone(UTC).strftime(form)


def in_order(budgets: Iterable[Budget]) -> list[Budget]:
    """The budgets of a tenant as people list them: for an execution, a day, a month."""
    return sorted(budgets, key=lambda budget: PERS.index(budget.per))


def format_usd(amount: Decimal) -> str:
    """An amount as people read it: ``$1.00``, ``$0.0201``."""
    cents = amount.quantize(_CENTS)
    return f"${cents if cents == amount else amount.normalize():f}"


def _objection(plan: Plan, amount: Decimal, use: BudgetUse) -> Reason:
    budget, used = use.budget, use.spending
    estimate = plan.cost.total
    retries = f" ({format_usd(estimate)} if nothing is tried twice)" if estimate != amount else ""
    span = "on an execution" if use.period is None else f"a {budget.per}"
    figures = f"{format_usd(used.spent)} is spent and {format_usd(used.reserved)} reserved"
    when = "" if use.period is None else f" of {use.period}"
    wait = "" if use.period is None else f"wait for the next {budget.per}, "
    return Reason(
        policy=f"budget.{budget.per}",
        code=_CODE,
        text=(
            f"The plan may cost {format_usd(amount)}{retries}. Tenant {budget.tenant} may spend "
            f"{format_usd(budget.cap)} {span}; {figures}{when}, so {format_usd(use.left)} is left. "
            f"Ask for less, {wait}or have the budget raised."
        ),
    )
