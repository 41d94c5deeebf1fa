"""The readers of `values` as types of fields, each with its JSON Schema."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    PlainSerializer,
    PlainValidator,
    Strict,
    ValidationInfo,
    WithJsonSchema,
)

from refresher.config import values
from refresher.references import Reference


def context_of(info: ValidationInfo) -> values.Context:
    """The context that a validation runs in, a blank one where none was given."""
    return info.context if isinstance(info.context, values.Context) else values.Context()


def matching(pattern: str, expected: str) -> AfterValidator:
    """Strings that match `pattern` wholly. Others are not shown: a name may be a pasted value."""

    def check(value: str) -> str:
        if re.fullmatch(pattern, value, re.ASCII) is None:
            raise ValueError(f"expected {expected}")
        return value

    return AfterValidator(check)


def between(low: str, high: str) -> AfterValidator:
    """Durations from `low` to `high`, both included."""
    least, most = values.parse_duration(low), values.parse_duration(high)

    def check(value: timedelta) -> timedelta:
        if not least <= value <= most:
            raise ValueError(f"{values.format_duration(value)} is not between {low} and {high}")
        return value

    return AfterValidator(check)


def _pattern(pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^{pattern}$"})


def _table_of(name: str, value: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: value},
        "required": [name],
        "additionalProperties": False,
    }


_REFERENCES = [
    _table_of("env", {"type": "string", "pattern": f"^{values.VARIABLE_PATTERN}$"}),
    _table_of("file", {"type": "string", "minLength": 1}),
]

_READ_DURATION = PlainValidator(values.parse_duration)
_SHOW_DURATION = PlainSerializer(values.format_duration, return_type=str)
_DURATION = _pattern(values.DURATION_PATTERN)

Duration = Annotated[timedelta, _READ_DURATION, _SHOW_DURATION, _DURATION]
History = Annotated[timedelta, _READ_DURATION, between("1h", "3650d"), _SHOW_DURATION, _DURATION]
#: AssumeRole takes 900 s to 12 h (AWS STS API reference).
SessionLife = Annotated[timedelta, _READ_DURATION, between("15m", "12h"), _SHOW_DURATION, _DURATION]
#: generateAccessToken takes at most 12 h (IAM Service Account Credentials API reference).
TokenLife = Annotated[timedelta, _READ_DURATION, between("5m", "12h"), _SHOW_DURATION, _DURATION]

FilePath = Annotated[
    Path,
    PlainValidator(lambda value, info: values.parse_path(value, context_of(info))),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string"}),
]

SecretReference = Annotated[
    Reference,
    PlainValidator(lambda value, info: values.parse_reference(value, context_of(info))),
    PlainSerializer(values.format_reference),
    WithJsonSchema({"oneOf": _REFERENCES}),
]

State = Annotated[
    str | Reference,
    PlainValidator(lambda value, info: values.parse_state(value, context_of(info))),
    PlainSerializer(values.format_state),
    WithJsonSchema({"oneOf": [{"type": "string"}, *_REFERENCES]}),
]

Registry = Annotated[str, AfterValidator(values.parse_registry)]
Host = Annotated[str, AfterValidator(values.parse_host)]
Listen = Annotated[str, AfterValidator(values.parse_listen)]
Url = Annotated[str, AfterValidator(values.parse_url)]


def _from_one(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _unique(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(value)) < len(value):
        twice = next(item for item in value if value.count(item) > 1)
        raise ValueError(f"{values.quoted(twice)} is named twice")
    return value


def _longest_first(value: tuple[timedelta, ...]) -> tuple[timedelta, ...]:
    return tuple(sorted(set(value), reverse=True))


#: TOML has lists where the model has tuples, which strict validation would refuse.
_LIST = Strict(False)

_NAME = "[a-z0-9][a-z0-9_-]{0,62}"
Name = Annotated[
    str,
    matching(_NAME, "a name: up to 63 of a-z, 0-9, _ and -, a letter or digit first"),
    _pattern(_NAME),
]

_VARIABLE = "[A-Za-z_][A-Za-z0-9_]{0,127}"
SecretName = Annotated[
    str,
    matching(_VARIABLE, "a name that fal can set as an environment variable"),
    _pattern(_VARIABLE),
]

_ENVIRONMENT = r"[!-~]{1,128}"
Environment = Annotated[
    str, matching(_ENVIRONMENT, "the name of a fal environment"), _pattern(_ENVIRONMENT)
]
Environments = Annotated[tuple[Environment, ...], _LIST, AfterValidator(_unique)]

_USERNAME = "[!-9;-~]{1,255}"
Username = Annotated[
    str, matching(_USERNAME, "a user name without colon and white space"), _pattern(_USERNAME)
]

_PROFILE = "[ -~]{1,128}"
Profile = Annotated[str, matching(_PROFILE, "the name of an AWS profile"), _pattern(_PROFILE)]

_IMAGE = r"[!-~]{1,512}"
Image = Annotated[str, matching(_IMAGE, "an image such as team/app:tag"), _pattern(_IMAGE)]

_ROLE = r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[\w+=,.@/-]{1,576}"
_Role = Annotated[
    str, matching(_ROLE, "a role such as arn:aws:iam::123456789012:role/NAME"), _pattern(_ROLE)
]
Roles = Annotated[
    tuple[_Role, ...],
    _LIST,
    BeforeValidator(_from_one),
    WithJsonSchema({"type": ["string", "array"], "items": {"type": "string"}}),
]

#: RoleSessionName of AssumeRole (AWS STS API reference).
_SESSION = r"[\w+=,.@-]{2,64}"
SessionName = Annotated[
    str, matching(_SESSION, "a session name: 2 to 64 of letters, digits and _+=,.@-")
]

_ACCOUNT = r"[A-Za-z0-9._-]+@[A-Za-z0-9.-]+"
_ServiceAccount = Annotated[
    str, matching(_ACCOUNT, "the e-mail address of a service account"), _pattern(_ACCOUNT)
]
ServiceAccounts = Annotated[
    tuple[_ServiceAccount, ...],
    _LIST,
    BeforeValidator(_from_one),
    WithJsonSchema({"type": ["string", "array"], "items": {"type": "string"}}),
]

References = Annotated[tuple[SecretReference, ...], _LIST]
Urls = Annotated[tuple[Url, ...], _LIST]
Warnings = Annotated[tuple[Duration, ...], _LIST, AfterValidator(_longest_first)]
