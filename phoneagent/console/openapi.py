"""The OpenAPI document of the control API, made from its operations and the types that they read and write."""

from __future__ import annotations

import re
from functools import cache
from http import HTTPStatus
from importlib import metadata
from typing import Any

import msgspec

from phoneagent.console.body import JSON
from phoneagent.console.operations import Operation, Operations, Parameter, Text
from phoneagent.console.schemas import EVENTS, ProblemDetails

ALWAYS = (401, 403, 429, 503)
"""The statuses of the problems that every operation may have. 403 is for pages of other sites, and 503 for a database
that does not answer."""

_REF = "#/components/schemas/{name}"


def document(operations: Operations, root: str = "") -> dict[str, Any]:
    """Return the document of these operations, whose paths begin below `root`."""
    every = [each for methods in operations.values() for each in methods.values()]
    types = [kind for each in every for kind in (each.body, each.result) if kind is not None]
    kinds = list(dict.fromkeys([*types, *EVENTS, ProblemDetails]))
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_REF)
    named = dict(zip(kinds, schemas, strict=True))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "phoneagent control API",
            "version": _version(),
            "description": "See every call of a phone agent, and act on the live ones.",
        },
        "servers": [{"url": root or "/"}],
        "security": [{"bearer": []}],
        "paths": {
            path: {
                "parameters": [_in_path(name) for name in re.findall(r"{(\w+)}", path)],
                **{method.lower(): _operation(method, path, each, named) for method, each in methods.items()},
            }
            for path, methods in operations.items()
        },
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": msgspec.json.decode(msgspec.json.encode(components)),  # their defaults may be Python's
        },
    }


@cache
def _version() -> str:
    return metadata.version("phoneagent")


def _operation(method: str, path: str, operation: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    first, *_ = words = re.findall(r"\w+", path.replace("{sid}", "call" if method == "GET" else ""))
    refused = (400,) if operation.parameters else ()
    found: dict[str, Any] = {
        "operationId": "_".join([method.lower(), *words]).replace("-", "_"),
        "tags": [first],
        "summary": operation.summary,
        "parameters": [_parameter(each) for each in operation.parameters],
        "responses": {
            str(operation.status): _answer(operation, schemas),
            **{str(status): _further(status, operation, schemas) for status in operation.further},
            **{str(status): _problem(status, schemas) for status in sorted({*operation.problems, *refused, *ALWAYS})},
        },
    }
    if operation.body is not None:
        content = {"schema": schemas[operation.body]}
        if operation.example is not None:
            content["example"] = dict(operation.example)
        found["requestBody"] = {"required": True, "content": {JSON: content}}
    return found


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    place = parameter.place if isinstance(parameter, Text) else "query"
    return {"name": parameter.name, "in": place, "description": parameter.summary, "schema": parameter.schema()}


def _answer(operation: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    if operation.result is None and operation.media_type != "text/event-stream":
        content = {operation.media_type: {"schema": {"type": "string", "format": "binary"}}}
        return {"description": "The bytes of the file", "content": content}
    if operation.result is None:
        words = "Server-Sent Events. The data of each is JSON, of one of the types in x-itemSchema."
        stream = {"schema": {"type": "string", "description": words}, "x-itemSchema": {"oneOf": _events(schemas)}}
        return {"description": "The events", "content": {"text/event-stream": stream}}
    content = {JSON: {"schema": schemas[operation.result]}}
    return {"description": HTTPStatus(operation.status).phrase, "content": content}


def _further(status: int, operation: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    words = {"description": HTTPStatus(status).phrase}
    return words if status == HTTPStatus.NO_CONTENT else {**_answer(operation, schemas), **words}


def _events(schemas: dict[Any, Any]) -> list[Any]:
    return [schemas[kind] for kind in EVENTS]


def _problem(status: int, schemas: dict[Any, Any]) -> dict[str, Any]:
    content = {"application/problem+json": {"schema": schemas[ProblemDetails]}}
    return {"description": HTTPStatus(status).phrase, "content": content}
