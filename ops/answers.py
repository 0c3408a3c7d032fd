"""What the router answered to a command, for the person who gave it."""

from collections.abc import Callable
from typing import Final
from uuid import UUID

import typer
from rich.text import Text

from ops import render
from ops.approvals import NoAnswerError
from schemas import CommandAnswer

_REFUSED: Final = 1
_OUT_OF_TIME: Final = 3


def show_answer(execution: UUID, ask: Callable[[], CommandAnswer], *, as_json: bool) -> int:
    """Wait for the answer that ``ask`` brings, and print it.

    Returns:
        The exit code: 0 when the command was taken, 1 when it was refused, 3 when no answer came.

    Raises:
        MillstreamError: As ``ask``, but for an answer that does not come.
    """
    try:
        answer = ask()
    except NoAnswerError as error:
        typer.echo(error.reason, err=True)
        return _OUT_OF_TIME
    if as_json:
        render.print_json({"correlation_id": execution, **answer.model_dump(mode="json")})
    else:
        render.console().print(said(answer), soft_wrap=True)
    return 0 if answer.is_accepted else _REFUSED


def said(answer: CommandAnswer) -> Text:
    """The router's answer, on a line."""
    if answer.is_accepted:
        return Text(answer.reason or f"{answer.kind}: done", "green")
    return Text.assemble(
        ("refused  ", "bold red"), answer.reason or "", (f"  {answer.code}", "dim")
    )
