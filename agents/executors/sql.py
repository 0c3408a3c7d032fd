"""Executor ``sql``: runs a statement of the catalogue on a PostgreSQL database.

Consumes ``Step``; emits ``StepResult``. A step brings parameters, and they are bound, never written
into the statement. An action with the effect ``read`` runs in a read-only transaction.
"""

from typing import Annotated, Any, Self

from psycopg.types.json import Jsonb
from pydantic import AfterValidator, Field, JsonValue, ValidationInfo, model_validator
from pydantic_core import PydanticSerializationError, to_jsonable_python

from agents.executors.checking import OutputPaths, check_connection, check_names, check_outputs
from agents.executors.json_path import pick
from agents.executors.sql_client import Answer, Call, SqlClient, open_pools
from agents.executors.sql_statement import KEY, parse_statement
from agents.runtime.declarations import Declaration
from agents.runtime.errors import PermanentError
from agents.runtime.execution import Job, executor
from agents.runtime.outcomes import UnusableAnswerError, check_output
from schemas import JsonObject
from schemas.base import Identifier


def _check_statement(text: str) -> str:
    parse_statement(text)
    return text


class SqlSettings(Declaration):
    """The ``with`` of an action that the executor ``sql`` does."""

    connection: Identifier
    """A connection of the kind postgres, by name"""
    statement: Annotated[str, AfterValidator(_check_statement)]
    """One statement; {parameter} stands for a bound value, and {idempotency_key} for a text that
    is the same for every attempt at one effect"""
    max_rows: Annotated[int, Field(ge=1, le=10_000)] = 1000
    """More rows than that are an error, and nothing is changed"""
    outputs: OutputPaths = Field(default_factory=dict)
    """By output, the JSONPath of its value in {"rows": [{"column": …}], "row_count": …}; numbers of
    the type numeric are texts there, so that none of their digits is lost"""

    @model_validator(mode="after")
    def _the_action_has_what_is_named(self, info: ValidationInfo) -> Self:
        check_connection(self.connection, ("postgres",), info)
        check_names(parse_statement(self.statement).names - {KEY}, info)
        check_outputs(self.outputs, info)
        return self


@executor("sql", settings=SqlSettings, client=open_pools)
async def run(job: Job[SqlSettings], client: SqlClient) -> JsonObject:
    """Run the statement; returns the outputs that the action names."""
    settings = job.settings
    statement = parse_statement(settings.statement)
    given = {KEY: job.idempotency_key, **job.parameters}
    return await client.run(
        Call(
            connection=settings.connection,
            query=statement.query,
            parameters={name: _bindable(given.get(name)) for name in statement.names},
            is_read=job.action.effect == "read",
            max_rows=settings.max_rows,
            seconds=job.seconds_left,
        ),
        lambda answer: _outputs(answer, settings.outputs),
    )


def _bindable(value: JsonValue) -> Any:
    """``value`` as psycopg takes it: an object as jsonb, a list of plain values as an array."""
    if isinstance(value, dict):
        return Jsonb(value)
    if isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        return Jsonb(value)
    return value


def _outputs(answer: Answer, paths: OutputPaths) -> JsonObject:
    """What a step puts out; called before COMMIT, so that a refusal changes nothing.

    Raises:
        PermanentError: The rows do not give it.
    """
    try:
        document = to_jsonable_python(
            {"rows": answer.rows, "row_count": answer.row_count},
            bytes_mode="base64",
            inf_nan_mode="strings",
        )
        output = {name: pick(path, document) for name, path in paths.items()}
        check_output(output)
    except UnusableAnswerError as error:
        raise PermanentError(f"{error.reason}; nothing was changed", code=error.code) from error
    except PydanticSerializationError as error:
        raise PermanentError(
            f"a column has a type that JSON cannot hold: {error}; cast it to text",
            code="configuration",
        ) from error
    return output
