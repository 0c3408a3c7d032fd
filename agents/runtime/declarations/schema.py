"""JSON Schemas of declaration files, for editors."""

from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def schema_of(model: type[BaseModel], title: str) -> dict[str, Any]:
    """The JSON Schema of a file whose root is ``model``."""
    schema = model.model_json_schema(schema_generator=_Generator)
    return {**schema, "$schema": _DIALECT, "title": title}


class _Generator(GenerateJsonSchema):
    """Pydantic's generator, with what an editor needs to flag the same mistakes as the loader."""

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        """A key that does not follow the rule for keys is a mistake."""
        generated = super().dict_schema(schema)
        if "patternProperties" in generated:
            generated["additionalProperties"] = False
        return generated

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        """A default in seconds is no value that one could write; neither is "not given"."""
        generated = super().default_schema(schema)
        default = generated.get("default")
        misfit = generated.get("type") == "string" and not isinstance(default, str)
        if default is None or isinstance(default, dict) or misfit:
            generated.pop("default", None)
        return generated

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002  # the base's name
        """Titles would only repeat the names of the fields."""
        return False
