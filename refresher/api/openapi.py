"""The API described: OpenAPI 3.1. What answers look like is read off the types of `view`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import NoneType
from typing import Annotated, Any, get_args, get_origin, get_type_hints, is_typeddict

from refresher import __version__
from refresher.view import (
    AttemptView,
    FailureView,
    LayerView,
    ReplicaView,
    SecretView,
    StageView,
    TargetView,
)
from refresher.web import STATES

Schema = dict[str, Any]

_PLAIN = {str: "string", bool: "boolean", int: "integer", float: "number", NoneType: "null"}
_COMPONENTS = {
    AttemptView: "Attempt",
    FailureView: "Failure",
    LayerView: "Layer",
    ReplicaView: "Replica",
    SecretView: "Secret",
    StageView: "Stage",
    TargetView: "Target",
}


def document() -> Schema:
    """The whole document, as `GET /openapi.json` answers it."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "refresher",
            "version": __version__,
            "description": (
                "Reading is open; a POST needs JSON, the same origin and daemon.api_token."
                " Times are RFC 3339 in UTC and null while unknown."
            ),
        },
        "paths": {**_reading(), **_asking()},
        "components": {
            "schemas": {
                **{name: _object_schema(kind) for kind, name in _COMPONENTS.items()},
                "Pending": _PENDING,
                "Problem": _PROBLEM,
                "Readiness": _READINESS,
            },
            "responses": {"Problem": _PROBLEM_RESPONSE},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


# --- schemas -----------------------------------------------------------------------------------


def schema_of(kind: Any) -> Schema:
    """The JSON Schema of a type that `view` uses."""
    if kind in _COMPONENTS:
        return _ref(_COMPONENTS[kind])
    if get_origin(kind) is Annotated:
        base, form = get_args(kind)
        return {**schema_of(base), "format": form}
    if get_origin(kind) is list:
        return {"type": "array", "items": schema_of(get_args(kind)[0])}
    if NoneType in get_args(kind):
        return {"anyOf": [schema_of(option) for option in get_args(kind)]}
    if issubclass(kind, StrEnum):
        return {"type": "string", "enum": [member.value for member in kind]}
    return {"type": _PLAIN[kind]}


def _object_schema(kind: Any) -> Schema:
    assert is_typeddict(kind)  # noqa: S101 - `_COMPONENTS` holds nothing else
    hints = get_type_hints(kind, include_extras=True)
    return _object(
        {name: schema_of(hint) for name, hint in hints.items()},
        description=(kind.__doc__ or "").strip(),
    )


def _object(properties: Mapping[str, Schema], **more: object) -> Schema:
    """Every property is always there; a later release may add others."""
    return {
        "type": "object",
        "required": list(properties),
        "properties": dict(properties),
        **more,
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_STRING: Schema = {"type": "string"}
_NULLABLE_BOOLEAN: Schema = {"type": ["boolean", "null"]}
_ATTEMPT: Schema = {"anyOf": [_ref("Attempt"), _ref("Pending")]}

_PENDING = _object(
    {"id": _STRING, "target": _STRING, "outcome": {"type": "null"}},
    description="An attempt that was asked for and has not ended.",
)
_PROBLEM = _object(
    {"type": _STRING, "title": _STRING, "status": {"type": "integer"}, "detail": _STRING},
    description="RFC 9457.",
)
_READINESS = _object(
    {
        "name": _STRING,
        "state": _STRING,
        "valid": _NULLABLE_BOOLEAN,
        "reason": {"type": ["string", "null"]},
    },
    description="A target in short; `reason` is that of its last failure.",
)
_PROBLEM_RESPONSE = {
    "description": "What is wrong and what to do.",
    "content": {"application/problem+json": {"schema": _ref("Problem")}},
}


# --- paths -------------------------------------------------------------------------------------


def _reading() -> Schema:
    targets = _object({"targets": _list_of("Target")})
    attempts = _object({"attempts": _list_of("Attempt")})
    replicas = _object({"replicas": _list_of("Replica")})
    limit = _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100})
    return {
        "/": {"get": _status_page()},
        "/targets/{name}": {
            "parameters": [_NAME],
            "get": _target_page(),
        },
        "/livez": {"get": _operation("livez", "Whether a restart would help: 503.", _json(_OK))},
        "/readyz": {"get": _readyz()},
        "/metrics": {"get": _operation("metrics", "Prometheus.", _content("text/plain"))},
        "/openapi.json": {"get": _operation("openapi", "This.", _json({"type": "object"}))},
        "/api/v1/replicas": {
            "get": _operation("replicas", "Who shares the state; none alone.", _json(replicas))
        },
        "/api/v1/targets": {
            "get": _operation("targets", "What stands and what comes next.", _json(targets))
        },
        "/api/v1/targets/{name}": {
            "parameters": [_NAME],
            "get": _operation("target", "The same of one target.", _json(_ref("Target"))),
        },
        "/api/v1/targets/{name}/attempts": {
            "parameters": [_NAME],
            "get": _operation("attempts", "The history, newest first.", _json(attempts), [limit]),
        },
    }


def _status_page() -> Schema:
    states = {"type": "string", "enum": ["", *STATES], "default": ""}
    text, state = _query("q", _STRING), _query("state", states)
    return _operation("statusPage", "Status page.", _content("text/html"), [text, state])


def _target_page() -> Schema:
    page = _content("text/html")
    operation = _operation("targetPage", "The page of one target.", page)
    operation["responses"]["404"] = {"description": "No target has that name.", "content": page}
    return operation


def _readyz() -> Schema:
    ready = _object({"status": _STRING, "targets": _list_of("Readiness")})
    strict = _query("strict", {"type": "string", "enum": ["1", "0", "true", "false"]})
    summary = "Whether the daemon has started; strict: and no target is expired or refused."
    return _operation("readyz", summary, _json(ready), [strict])


def _asking() -> Schema:
    retry = {"type": "boolean", "default": False}
    one = {"type": "object", "properties": {"retry_refused": retry}, "additionalProperties": False}
    names = {"type": "array", "items": _STRING, "minItems": 1}
    many = {**one, "properties": {"targets": names, "retry_refused": retry}}
    all_attempts = _object({"attempts": {"type": "array", "items": _ATTEMPT}})
    return {
        "/api/v1/refresh": {
            "post": _refresh("refreshMany", "Refresh these targets, or all.", many, all_attempts)
        },
        "/api/v1/targets/{name}/refresh": {
            "parameters": [_NAME],
            "post": _refresh("refresh", "Refresh a target now.", one, _ATTEMPT),
        },
        "/api/v1/targets/{name}/pause": {
            "parameters": [_NAME],
            "post": _change("pause", "Stop keeping it."),
        },
        "/api/v1/targets/{name}/resume": {
            "parameters": [_NAME],
            "post": _change("resume", "Keep it again."),
        },
    }


def _refresh(id: str, summary: str, body: Schema, answer: Schema) -> Schema:
    wait = _query("wait", {"type": "number", "minimum": 0, "maximum": 3600, "default": 0})
    retry = _query("retry_refused", {"type": "string", "enum": ["1", "0", "true", "false"]})
    operation = _guarded(_operation(id, summary, _json(answer), [wait, retry]), body)
    operation["responses"]["200"]["description"] = "Ended within `wait` seconds."
    operation["responses"]["202"] = {"description": "Not ended yet.", "content": _json(answer)}
    return operation


def _change(id: str, summary: str) -> Schema:
    empty = {"type": "object", "additionalProperties": False}
    return _guarded(_operation(id, summary, _json(_ref("Target"))), empty)


def _guarded(operation: Schema, body: Schema) -> Schema:
    """A body is asked for, `{}` at least, since its type keeps the forms of other pages out."""
    given = {"required": True, "content": _json(body)}
    return {**operation, "security": [{"token": []}, {}], "requestBody": given}


def _operation(id: str, summary: str, content: Schema, parameters: Sequence[Schema] = ()) -> Schema:
    return {
        "operationId": id,
        "summary": summary,
        "parameters": list(parameters),
        "responses": {
            "200": {"description": "As asked.", "content": content},
            "default": {"$ref": "#/components/responses/Problem"},
        },
    }


def _query(name: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "schema": schema}


def _list_of(name: str) -> Schema:
    return {"type": "array", "items": _ref(name)}


def _json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _content(media_type: str) -> Schema:
    return {media_type: {"schema": _STRING}}


_OK = _object({"status": _STRING})
_NAME: Schema = {"name": "name", "in": "path", "required": True, "schema": _STRING}
