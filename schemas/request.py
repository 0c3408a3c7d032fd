"""What somebody asks for: the payload of the intake topic."""

from typing import Annotated, ClassVar, Final, Self

from pydantic import ConfigDict, Field, model_validator

from schemas.base import JsonObject, Model, Name, Payload, Tenant, Text
from schemas.plan import MAX_STEPS, OnFailure, PlannedStep

ANONYMOUS: Final = "anonymous"
"""Who asks where a request does not say."""


class Requester(Model):
    """Who asks, as far as the intake topic's ACL can be trusted to say."""

    user: Name = ANONYMOUS
    groups: tuple[Name, ...] = ()


class ExecutionRequest(Payload):
    """A request in plain language, or a ready-made plan.

    At least one of ``text`` and ``plan`` is given; with a plan, the text is its title.
    """

    schema_version: ClassVar[int] = 2

    model_config: ClassVar[ConfigDict] = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "restart checkout in staging and tell #releases"},
                {
                    "text": "check and report",
                    "plan": [
                        {
                            "step_id": "check",
                            "action": "service.status",
                            "parameters": {"service": "checkout", "environment": "staging"},
                        },
                        {
                            "step_id": "tell",
                            "action": "notify.send",
                            "parameters": {
                                "channel": "#releases",
                                "text": "checkout runs ${steps.check.output.version}",
                            },
                            "depends_on": ["check"],
                        },
                    ],
                },
            ]
        }
    )

    text: Text | None = None
    plan: Annotated[tuple[PlannedStep, ...], Field(min_length=1, max_length=MAX_STEPS)] | None = (
        None
    )
    on_failure: OnFailure = "stop"
    """What a failed step leads to, where the step does not say."""
    requester: Requester = Requester()
    tenant: Tenant = "default"
    context: JsonObject = Field(default_factory=dict)
    """Values the requester wants to see again in the report; no role acts on them."""
    unknown_fields: tuple[Name, ...] = ()
    """Fields of the intake body that no version of this model knows; reported, never acted on."""

    @model_validator(mode="after")
    def _something_is_asked_for(self) -> Self:
        if self.text is None and self.plan is None:
            raise ValueError("has neither a text nor a plan; give at least one")
        return self
