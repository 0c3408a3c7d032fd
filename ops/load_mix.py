"""Which requests a load is made of, and in which order they take turns."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from agents.runtime.errors import ConfigurationError
from ops.submit import Submission, make_submission
from schemas import ExecutionRequest

DEFAULT_MIX: Final = Path(__file__).with_name("examples") / "load-mix.yaml"
_USER: Final = "load"


class _Entry(BaseModel):
    """One line of a mix file; a plan is a file beside it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str | None = None
    plan: str | None = None
    weight: Annotated[int, Field(ge=1, le=1000)] = 1


_ENTRIES: Final = TypeAdapter(Annotated[tuple[_Entry, ...], Field(min_length=1)])


@dataclass(frozen=True, slots=True)
class Weighted:
    """A request, and how often it is sent beside the others."""

    request: ExecutionRequest
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Mix:
    """The requests of a load."""

    entries: tuple[Weighted, ...]

    def submissions(self, count: int) -> Iterator[Submission]:
        """``count`` requests, each an execution of its own.

        They take turns by weight, spread as evenly as can be, and always in the same order.
        """
        total = sum(entry.weight for entry in self.entries)
        credit = [0] * len(self.entries)
        for _ in range(count):
            for number, entry in enumerate(self.entries):
                credit[number] += entry.weight
            turn = max(range(len(credit)), key=credit.__getitem__)
            credit[turn] -= total
            yield Submission(uuid4(), str(uuid4()), self.entries[turn].request)


def choose_mix(
    *, texts: Sequence[str] = (), plan: Path | None = None, mix: Path | None = None, tenant: str
) -> Mix:
    """The requests that a person has named; the default mix if they have named none.

    Raises:
        ConfigurationError: More than one kind was named, or a file cannot be read.
        InvalidMessageError: A request breaks the contract of the intake topic.
    """
    if sum((bool(texts), plan is not None, mix is not None)) > 1:
        raise ConfigurationError("give one of --text, --plan and --mix")
    if texts:
        return Mix(tuple(Weighted(_request(text, None, tenant)) for text in texts))
    if plan is not None:
        return Mix((Weighted(_request(None, plan, tenant)),))
    return read_mix(mix or DEFAULT_MIX, tenant)


def read_mix(path: Path, tenant: str) -> Mix:
    """The requests of a mix file: a list of ``{text or plan, weight}``.

    Raises:
        ConfigurationError: It cannot be read, or holds something else.
        InvalidMessageError: A request breaks the contract of the intake topic.
    """
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
        entries = _ENTRIES.validate_python(content)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read the mix {path}: {error}") from None
    except YAMLError as error:
        raise ConfigurationError(f"the mix {path} is malformed: {error}") from None
    except ValidationError as error:
        details = "; ".join(
            f"{'.'.join(str(part) for part in detail['loc']) or 'file'}: {detail['msg']}"
            for detail in error.errors(include_url=False, include_input=False)
        )
        raise ConfigurationError(
            f"the mix {path} must be a list of requests with text or plan, and weight: {details}"
        ) from None
    for number, entry in enumerate(entries):
        if entry.text is None and entry.plan is None:
            raise ConfigurationError(f"the mix {path}: entry {number} has neither text nor plan")
    return Mix(
        tuple(
            Weighted(
                _request(entry.text, entry.plan and path.parent / entry.plan, tenant), entry.weight
            )
            for entry in entries
        )
    )


def _request(text: str | None, plan: Path | str | None, tenant: str) -> ExecutionRequest:
    file = Path(plan) if plan else None
    return make_submission(text, plan=file, tenant=tenant, user=_USER).request
