"""The signature of a function that becomes a tool: which arguments the model fills in, and which one is the call."""

from __future__ import annotations

import functools
import inspect
import typing
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pydantic

from phoneagent.agent.call import Call
from phoneagent.errors import DefinitionError
from phoneagent.errors.values import python_type


@dataclass(frozen=True, slots=True)
class Signature:
    """What a function takes: the model that checks its arguments, their JSON schema, and the parameter of the call."""

    model: type[pydantic.BaseModel]
    schema: dict[str, Any]
    call_parameter: str | None
    untyped: tuple[str, ...]
    """The parameters without a type hint, in order."""


def read_signature(function: Callable[..., Any], name: str) -> Signature:
    """Return the signature of the function of a tool.

    Raises:
        DefinitionError: the model cannot fill in the parameters.
    """
    hints = _hints_of(function, name)
    call_parameter = None
    fields: dict[str, Any] = {}
    for index, parameter in enumerate(parameters_of(function, name).values()):
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise DefinitionError(
                f"tool {name!r} has parameter {parameter.name!r}, which the model cannot fill: use a named one"
            )
        if index == 0 and parameter.name in ("self", "cls") and parameter.name not in hints:
            raise DefinitionError(f"tool {name!r} is a method without its object: write tool(the_object.{name})")
        if _is_call(parameter, hints):
            if call_parameter is not None:
                raise DefinitionError(
                    f"tool {name!r} takes the call twice, as {call_parameter!r} and {parameter.name!r}: remove one"
                )
            call_parameter = parameter.name
            continue
        required = parameter.default is parameter.empty
        fields[parameter.name] = (hints.get(parameter.name, Any), ... if required else parameter.default)
    model, schema = _model_of(name, fields)
    return Signature(model, schema, call_parameter, tuple(name for name in fields if name not in hints))


def parameters_of(function: Callable[..., Any], name: str) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of the function of a tool, except those that a partial has filled in by name.

    Raises:
        DefinitionError: it cannot be called.
    """
    try:
        parameters = inspect.signature(function).parameters
        filled_in: set[str] = set()
        while isinstance(function, functools.partial):
            filled_in.update(function.keywords)
            function = function.func
        return {name: each for name, each in parameters.items() if name not in filled_in}
    except (TypeError, ValueError):
        raise DefinitionError(
            f"tool {name!r} has handler={function!r}, which cannot be called: pass a function"
        ) from None


def doc_of(function: Callable[..., Any]) -> str:
    """Return the docstring of a function; of a partial's function; of an object, or of its `__call__`; else ""."""
    while isinstance(function, functools.partial) and "__doc__" not in vars(function):
        function = function.func  # `partial` has a docstring itself
    called = type(function).__call__
    own = called.__doc__ if inspect.isfunction(called) else None  # `getdoc` would find that of `type.__call__`
    return inspect.getdoc(function) or inspect.cleandoc(own or "")


def _hints_of(function: Callable[..., Any], name: str) -> dict[str, Any]:
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function):
        function = type(function).__call__  # a callable object
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception as error:  # noqa: BLE001 - a hint that is text is code, and may raise anything
        words = f"tool {name!r} has a type hint that cannot be resolved: {_line(error)}"
        if isinstance(error, NameError):
            kind = python_type(error.name or "")
            words += ": import it outside of TYPE_CHECKING, or correct it" if kind is None else f": write {kind}"
        raise DefinitionError(words) from None


def _is_call(parameter: inspect.Parameter, hints: Mapping[str, Any]) -> bool:
    if parameter.name not in hints:
        return parameter.name == "call"
    hint = hints[parameter.name]
    return hint is Call or Call in typing.get_args(hint)  # `Call | None`


def _model_of(name: str, fields: dict[str, Any]) -> tuple[type[pydantic.BaseModel], dict[str, Any]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about names that pydantic's models use too, and defaults that JSON lacks
            model = pydantic.create_model(name, __config__=pydantic.ConfigDict(extra="forbid"), **fields)
            schema = model.model_json_schema()
    except Exception as error:  # noqa: BLE001 - pydantic and the types of the user may raise anything
        for parameter, (hint, _) in fields.items():
            _check_type(name, parameter, hint)
        raise DefinitionError(f"tool {name!r} has parameters that JSON cannot express: {_line(error)}") from None
    for parameter, (_, default) in fields.items():
        if parameter not in model.model_fields and default is ...:
            raise DefinitionError(f"tool {name!r} has parameter {parameter!r}, a name that pydantic keeps: rename it")
    schema.pop("title", None)
    for property_ in schema.get("properties", {}).values():
        property_.pop("title", None)
    return model, schema


def _check_type(name: str, parameter: str, hint: Any) -> None:
    """Refuse a type that a model cannot write, in fewer words than pydantic's."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pydantic.TypeAdapter(hint).json_schema()
    except (pydantic.PydanticSchemaGenerationError, pydantic.PydanticInvalidForJsonSchema):
        kind = hint.__name__ if isinstance(hint, type) else str(hint)
        raise DefinitionError(
            f"tool {name!r}: parameter {parameter!r} is of type {kind}: use str, int, list or a pydantic model"
        ) from None
    except Exception:  # noqa: BLE001 - another problem, which the caller reports
        return


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
