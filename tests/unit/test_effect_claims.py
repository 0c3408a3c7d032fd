"""Whatever owners, clocks and people do, an effect begins once, and the first certainty stands."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st
from support.ledgers import LEASE, NOON, result, step

from agents.runtime.ledger.claims import (
    Claim,
    EffectKey,
    EffectRecord,
    Resolving,
    Settlement,
    apply_to,
)
from agents.runtime.ports import EffectClaim, Resolution

RUN = UUID(int=1)
OWNERS = st.sampled_from(["a", "b", "c"])
ATTEMPTS = st.integers(1, 3)
ENDINGS = ["success", "failed", "unknown"]


@dataclass
class World:
    """One effect, those who would carry it out, and somebody who looks after it."""

    effect: str
    now: datetime = NOON
    records: dict[EffectKey, EffectRecord] = field(default_factory=dict)
    begun: list[tuple[str, int]] = field(default_factory=list)
    """Who was let go, at which attempt."""
    certain: dict[int, str] = field(default_factory=dict)
    """By attempt, the first outcome that left no doubt."""

    @property
    def held(self) -> EffectRecord | None:
        return next(iter(self.records.values()), None)

    def claim(self, owner: str, attempt: int) -> None:
        message = step(self.effect, attempt=attempt, run_id=RUN)
        answer = apply_to(self.records, Claim(message, owner, self.now + LEASE, self.now))
        assert isinstance(answer, EffectClaim)
        if answer.decision != "go":
            return
        assert attempt not in self.certain, "what is certain begins again"
        others = {each for each in self.begun if each[1] == attempt} - {(owner, attempt)}
        assert self.effect != "effect" or not others, "an effect begins a second time"
        self.begun.append((owner, attempt))

    def settle(self, owner: str, status: str) -> None:
        mine = [attempt for who, attempt in self.begun if who == owner]
        if mine:
            message = step(self.effect, attempt=mine[-1], run_id=RUN)
            settlement = Settlement(message, result(message, status), owner, self.now)
            answer = apply_to(self.records, settlement)
            assert not isinstance(answer, Exception), "who was let go may say what came of it"

    def resolve(self, status: str) -> None:
        if (held := self.held) is None:
            return
        message = step(self.effect, attempt=held.attempt, run_id=RUN)
        what = result(message, status)
        resolution = Resolution(
            "", RUN, held.plan_id, held.plan_hash, what, "ann", "seen", uuid4(), self.now
        )
        apply_to(self.records, Resolving(resolution))
        if held.status == "started" and held.lease_until > self.now:
            assert self.held == held, "who is at it is not overruled"

    def wait(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    def is_consistent(self) -> None:
        held = self.held
        if held is not None and held.status in ("done", "failed"):
            first = self.certain.setdefault(held.attempt, held.status)
            assert held.status == first, "the first certainty stands"


acts = st.lists(
    st.one_of(
        st.tuples(st.just(World.claim), OWNERS, ATTEMPTS),
        st.tuples(st.just(World.settle), OWNERS, st.sampled_from(ENDINGS)),
        st.tuples(st.just(World.resolve), st.sampled_from(["success", "failed"])),
        st.tuples(st.just(World.wait), st.integers(1, 90)),
    ),
    max_size=40,
)


@given(effect=st.sampled_from(["effect", "idempotent"]), acts=acts)
def test_owners_leases_and_people_in_any_order_keep_the_promises(
    effect: str, acts: list[tuple[Any, ...]]
) -> None:
    world = World(effect)
    for act, *arguments in acts:
        act(world, *arguments)
        world.is_consistent()
