"""The policies of a folder, kept up with while a process runs.

A set that is not sound is refused as a whole: at start it refuses the start, later the one before
stays in force.
"""

import asyncio
from datetime import datetime, timedelta
from pathlib import Path
from typing import NoReturn
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import structlog

from agents.policies.judging import APPROVAL_TTL, Judge
from agents.policies.policy_set import (
    PolicySet,
    compile_policies,
    digest_of,
    load_policies,
    read_sources,
)
from agents.policies.schema import schema_of
from agents.runtime.assessment import Assessment
from agents.runtime.catalogue import Catalogue
from agents.runtime.declarations import DeclarationError
from agents.runtime.errors import ConfigurationError
from agents.runtime.ports import Clock
from schemas import Plan, Step

_log = structlog.get_logger(__name__)


class PolicyFolder:
    """Implements :class:`agents.runtime.assessment.Policies` with a folder of Cedar files.

    Args:
        folder: Where they are.
        catalogue: What they are about.
        time_zone: Where it is the time that they see, such as ``Europe/Zurich``.
        poll: Seconds between two looks at the folder.
        approval_ttl: How long approval is waited for where a policy does not say.

    Raises:
        DeclarationError: The policies are not sound; all problems are named, with their lines.
        ConfigurationError: There is no such time zone, or no schema for the catalogue.
    """

    def __init__(
        self,
        folder: Path,
        catalogue: Catalogue,
        *,
        time_zone: str = "UTC",
        poll: float = 3.0,
        approval_ttl: timedelta = APPROVAL_TTL,
    ) -> None:
        self._folder = folder
        self._catalogue = catalogue
        self._zone = zone_of(time_zone)
        self._poll = poll
        self._approval_ttl = approval_ttl
        self._schema = schema_of(catalogue)
        self._refused: str | None = None
        """The problems that were said last."""
        self._judge = self._judge_by(load_policies(folder, self._schema, self._zone))

    @property
    def policies(self) -> PolicySet:
        """Those in force."""
        return self._judge.policies

    def judge(self, plan: Plan, *, tenant: str, lane: str, moment: datetime) -> Assessment:
        """See :meth:`agents.runtime.assessment.Policies.judge`."""
        return self._judge.judge(plan, tenant=tenant, lane=lane, moment=moment)

    def judge_step(
        self, plan: Plan, step: Step, *, tenant: str, lane: str, moment: datetime
    ) -> Assessment:
        """See :meth:`agents.runtime.assessment.Policies.judge_step`."""
        return self._judge.judge_step(plan, step, tenant=tenant, lane=lane, moment=moment)

    async def follow(self, clock: Clock) -> NoReturn:
        """See :meth:`agents.runtime.assessment.Policies.follow`."""
        while True:
            await clock.sleep(self._poll)
            # Reading and checking take milliseconds that handlers shall not wait for.
            self._take(await asyncio.to_thread(self._look))

    def _judge_by(self, policies: PolicySet) -> Judge:
        return Judge(self._catalogue, policies, self._approval_ttl)

    def _look(self) -> PolicySet | DeclarationError | None:
        """What the folder holds now; ``None`` where that is what is in force."""
        try:
            sources = read_sources(self._folder)
            if digest_of(sources, self._schema, self._zone) == self.policies.digest:
                return None
            return compile_policies(sources, self._schema, self._zone)
        except DeclarationError as error:
            return error

    def _take(self, found: PolicySet | DeclarationError | None) -> None:
        if isinstance(found, DeclarationError):
            if found.reason != self._refused:
                _log.error(
                    "policies_refused",
                    problems=[str(problem) for problem in found.problems],
                    in_force=self.policies.digest[:12],
                )
            self._refused = found.reason
            return
        self._refused = None
        if found is not None:
            self._judge = self._judge_by(found)
            _log.info("policies_loaded", policies=len(found.policies), digest=found.digest[:12])


def zone_of(name: str) -> ZoneInfo:
    """The time zone of that name.

    Raises:
        ConfigurationError: There is none.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigurationError(
            f"there is no time zone {name!r}; say one such as UTC or Europe/Zurich"
        ) from None
