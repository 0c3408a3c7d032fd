"""Envelopes that were kept as JSON, typed again by the message type that they carry."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from agents.runtime.codec import invalid
from agents.runtime.errors import InvalidMessageError
from schemas import AgentMessage, Payload, envelope_type


class _Head(BaseModel):
    model_config = ConfigDict(extra="ignore")

    message_type: str


def decode_message(text: str) -> AgentMessage[Any]:
    """The envelope that ``text`` is the JSON of.

    Raises:
        InvalidMessageError: No payload model of this version has that name or that form; somebody
            newer has written it.
    """
    try:
        name = _Head.model_validate_json(text).message_type
        payload = _payload_models().get(name)
        if payload is None:
            raise InvalidMessageError(f"there is no payload {name}", field="message_type")
        return envelope_type(payload).model_validate_json(text)
    except ValidationError as error:
        raise invalid(error) from None


def _payload_models() -> dict[str, type[Payload]]:
    return {model.__name__: model for model in Payload.__subclasses__()}
