"""``millstream worker``: a process that hosts roles."""

import asyncio
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
import uvloop

from agents.executors import SETTINGS_MODELS
from agents.policies import PolicyFolder
from agents.registry import ROLES
from agents.runtime import spec_of
from agents.runtime.catalogue import Catalogue, load_catalogue, load_prices
from agents.runtime.collector import calm_the_collector
from agents.runtime.errors import ConfigurationError
from agents.runtime.host import Declarations, hosting
from agents.runtime.ledger.retention import check_retention
from agents.runtime.principals import PrincipalsFromFile
from agents.runtime.settings import Settings, load_settings
from agents.runtime.telemetry import configure_logging
from agents.runtime.topology import load_topology
from agents.runtime.worker import Worker, run_worker

_log = structlog.get_logger(__name__)


def work(names: Sequence[str] | None, ready_file: Path | None) -> None:
    """Host roles until SIGTERM or SIGINT.

    Args:
        names: Which roles; all if not given.
        ready_file: Made when every role has its partitions, removed at the end.

    Raises:
        ConfigurationError: Settings, declarations or the broker's topics do not fit, or Kafka or
            Postgres refuses us. Where they are away they are waited for.
    """
    settings = load_settings()
    configure_logging(log_format=settings.log_format, level=settings.log_level)
    functions = choose_roles(names)
    declarations = load_declarations(settings)
    calm_the_collector()
    try:
        uvloop.run(_host(settings, declarations, functions, ready_file))
    finally:
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)


def choose_roles(names: Sequence[str] | None) -> list[Callable[..., Any]]:
    """The functions of the named roles, in the order of the registry.

    Raises:
        ConfigurationError: There is no role of that name.
    """
    by_name = {spec_of(function).name: function for function in ROLES}
    if names is None:
        return list(by_name.values())
    if unknown := sorted(set(names) - by_name.keys()):
        raise ConfigurationError(
            f"there is no role {', '.join(unknown)}; there are {', '.join(by_name)}"
        )
    return [function for name, function in by_name.items() if name in names]


def load_declarations(settings: Settings) -> Declarations:
    """What topics.yaml, actions.yaml and the policies say.

    Raises:
        ConfigurationError: A file has problems, all of which are named; or the ledger would
            forget what can still come again.
    """
    topology = load_topology(settings.topics_file)
    check_retention(settings.ledger_retention, topology)
    catalogue = load_catalogue(
        settings.actions_file, SETTINGS_MODELS, prices=load_prices(settings.prices_file)
    )
    return Declarations(
        topology=topology,
        catalogue=catalogue,
        policies=load_policies(settings, catalogue),
        principals=PrincipalsFromFile(
            settings.principals_file, trusts_unsigned=settings.trust_unsigned_commands
        ),
    )


def load_policies(settings: Settings, catalogue: Catalogue) -> PolicyFolder:
    """The policies that the settings name.

    Raises:
        ConfigurationError: They are not sound; all problems are named.
    """
    return PolicyFolder(
        settings.policies_folder,
        catalogue,
        time_zone=settings.policies_time_zone,
        poll=settings.policies_poll,
        approval_ttl=settings.approval_ttl,
    )


async def _host(
    settings: Settings,
    declarations: Declarations,
    functions: Sequence[Callable[..., Any]],
    ready_file: Path | None,
) -> None:
    with stoppable() as told_to_stop:
        try:
            async with hosting(settings, declarations, functions) as worker:
                announcing = asyncio.create_task(_announce(worker, ready_file))
                try:
                    await run_worker(worker)
                finally:
                    announcing.cancel()
        except asyncio.CancelledError:
            if not told_to_stop.is_set():
                raise


@contextmanager
def stoppable() -> Iterator[asyncio.Event]:
    """Cancel this task at a signal that comes before the worker minds them: while it starts."""
    loop, task, told = asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event()

    def stop() -> None:
        told.set()
        if task is not None:
            task.cancel()

    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, stop)
    yield told


async def _announce(worker: Worker, ready_file: Path | None) -> None:
    """Tell whoever started us when every role has its partitions."""
    try:
        await worker.wait_assigned()
    except Exception:  # noqa: BLE001  # what ends the worker is raised by whoever runs it
        return
    _log.info("ready")
    if ready_file is not None:
        await asyncio.to_thread(ready_file.touch)
