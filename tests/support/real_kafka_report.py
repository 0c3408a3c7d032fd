"""Keeps account of what was not tested on Apache Kafka, so that nobody takes it for tested."""

import os
from dataclasses import dataclass, field
from typing import NoReturn

import pytest


@dataclass
class _Account:
    reason: str = ""
    on_embedded: set[str] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)


_ACCOUNT = pytest.StashKey[_Account]()


def missing(config: pytest.Config, reason: str) -> None:
    """Note that there is no Apache Kafka, and why; in CI that ends the test run."""
    if in_ci():
        pytest.exit(f"CI tests on Apache Kafka, and there is none: {reason}", returncode=1)
    _account(config).reason = reason


def skip(request: pytest.FixtureRequest) -> NoReturn:
    """Skip a test that only Apache Kafka can answer."""
    account = _account(request.config)
    account.skipped.add(request.node.nodeid)
    pytest.skip("needs Apache Kafka")


def ran_on_the_embedded_broker(request: pytest.FixtureRequest) -> None:
    """Note that a test runs on the embedded broker in place of Apache Kafka."""
    _account(request.config).on_embedded.add(request.node.nodeid)


def summary(config: pytest.Config) -> str:
    """Return the one line that says what was not run on Apache Kafka; empty if all was."""
    account = _account(config)
    parts = [
        f"{len(tests)} {what} ({', '.join(_files(tests))})"
        for tests, what in (
            (account.on_embedded, "ran on the embedded broker instead"),
            (account.skipped, "did not run"),
        )
        if tests
    ]
    if not parts:
        return ""
    return f"Not tested on Apache Kafka: {'; '.join(parts)}. Why: {account.reason}"


def in_ci() -> bool:
    """Return whether a missing server is a failure."""
    return os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def _account(config: pytest.Config) -> _Account:
    return config.stash.setdefault(_ACCOUNT, _Account())


def _files(tests: set[str]) -> list[str]:
    return sorted({test.partition("::")[0].rpartition("/")[2] for test in tests})
