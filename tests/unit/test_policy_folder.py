"""Policies are followed while a process runs; a set that is not sound never comes into force."""

import asyncio
from collections.abc import Iterator, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from support.policies import MONDAY, PERMIT, SHIPPED, plan_of, restart

from agents.policies import PolicyFolder
from agents.runtime.declarations import DeclarationError
from agents.runtime.errors import ConfigurationError
from agents.runtime.testing import ManualClock

DENY = '@id("no") @reason("r") @remedy("m") forbid (principal, action, resource);\n'


class Stepped(ManualClock):
    """A clock whose sleeps end when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self._asleep = asyncio.Semaphore(0)
        self._awake = asyncio.Semaphore(0)

    async def sleep(self, seconds: float) -> None:
        self._asleep.release()
        await self._awake.acquire()
        self.advance(seconds)

    async def turn(self) -> None:
        """Let the sleeper do one round, until it sleeps again."""
        self._awake.release()
        await self._asleep.acquire()


@asynccontextmanager
async def followed(policies: PolicyFolder) -> Any:
    clock = Stepped()
    task = asyncio.create_task(policies.follow(clock))
    await clock._asleep.acquire()
    yield clock
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.fixture
def log() -> Iterator[list[MutableMapping[str, Any]]]:
    with structlog.testing.capture_logs() as lines:
        yield lines


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = tmp_path / "a.cedar"
    found.write_text(PERMIT)
    return found


def write(file: Path, text: str | None) -> None:
    """Have the file hold ``text``; ``None`` stands for no file."""
    if text is None:
        file.unlink()
    else:
        file.write_text(text)


def decision(policies: PolicyFolder) -> str:
    plan = plan_of(restart())
    return policies.judge(plan, tenant="default", lane="", moment=MONDAY).decision


async def test_a_change_comes_into_force_without_a_restart(
    file: Path, log: list[MutableMapping[str, Any]]
) -> None:
    policies = PolicyFolder(file.parent, SHIPPED)
    async with followed(policies) as clock:
        await clock.turn()
        assert (decision(policies), log) == ("approved", [])
        write(file.parent / "b.cedar", DENY)
        await clock.turn()
        assert decision(policies) == "denied"
        write(file.parent / "b.cedar", None)
        await clock.turn()
        assert decision(policies) == "approved"
    assert [line["event"] for line in log] == ["policies_loaded", "policies_loaded"]


async def test_a_broken_set_is_refused_once_with_its_place_and_the_old_one_stays(
    file: Path, log: list[MutableMapping[str, Any]]
) -> None:
    policies = PolicyFolder(file.parent, SHIPPED)
    async with followed(policies) as clock:
        write(file, f"{DENY}\npermit (principal, action, resource) when {{ context.nothing }};")
        for _ in range(3):
            await clock.turn()
        assert decision(policies) == "approved"
        assert [line["event"] for line in log] == ["policies_refused"]
        assert any(problem.startswith(f"{file}:3: ") for problem in log[0]["problems"])
        write(file, DENY)
        await clock.turn()
        assert decision(policies) == "denied"
        write(file, "broken again")
        await clock.turn()
        assert decision(policies) == "denied"
    assert [line["event"] for line in log[1:]] == ["policies_loaded", "policies_refused"]


async def test_policies_that_are_gone_stay_in_force(
    file: Path, log: list[MutableMapping[str, Any]]
) -> None:
    policies = PolicyFolder(file.parent, SHIPPED)
    async with followed(policies) as clock:
        write(file, None)
        await clock.turn()
        file.parent.rmdir()  # a test may
        await clock.turn()
        await clock.turn()
        assert decision(policies) == "approved"
    assert [line["event"] for line in log] == ["policies_refused", "policies_refused"]
    assert "holds no policies" in log[0]["problems"][0]
    assert "No such file" in log[1]["problems"][0]


def test_a_broken_set_refuses_the_start(file: Path) -> None:
    file.write_text("permit;")
    with pytest.raises(DeclarationError, match=r"a\.cedar:1: at the policy: it cannot be read"):
        PolicyFolder(file.parent, SHIPPED)


@pytest.mark.parametrize("zone", ["Nowhere/Land", "", "../etc/passwd"])
def test_a_time_zone_that_there_is_not_refuses_the_start(file: Path, zone: str) -> None:
    with pytest.raises(ConfigurationError, match="no time zone"):
        PolicyFolder(file.parent, SHIPPED, time_zone=zone)
