"""The configuration for readers: its JSON Schema, and what is in effect."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from refresher.config.checks import policy_of
from refresher.config.root import Config
from refresher.config.sections import PolicySettings
from refresher.config.values import format_duration, format_reference
from refresher.references import Reference


class _Generator(GenerateJsonSchema):
    """Shows defaults as the file writes them."""

    def encode_default(self, dft: Any) -> Any:
        if isinstance(dft, timedelta):
            return format_duration(dft)
        if isinstance(dft, Reference):
            return format_reference(dft)
        if isinstance(dft, BaseModel):
            return dft.model_dump(mode="json", exclude_unset=True)
        if isinstance(dft, tuple):
            return [self.encode_default(item) for item in dft]
        return super().encode_default(dft)


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the file; the same for every call."""
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        **Config.model_json_schema(schema_generator=_Generator),
        "title": "Configuration of refresher",
    }


def effective(config: Config) -> dict[str, Any]:
    """Every key with the value in effect, in JSON's types; secrets by their references' names."""
    shown = config.model_dump(mode="json")
    for name, target in config.targets.items():
        policy = PolicySettings.model_construct(**asdict(policy_of(config, target)))
        shown["targets"][name]["policy"] = policy.model_dump(mode="json")
    return shown
