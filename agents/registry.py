"""Every role of the pipeline. To add one: write its module, list it here and in topics.yaml."""

from collections.abc import Callable
from typing import Any, Final

from agents import delayer, intent_parser, planner, reporter, router, safety_checker
from agents.executors import http, notify, python

ROLES: Final[tuple[Callable[..., Any], ...]] = (
    intent_parser.parse,
    planner.plan,
    safety_checker.check,
    router.route,
    http.call,
    python.call,
    notify.send_message,
    reporter.report,
    delayer.forward,
)
