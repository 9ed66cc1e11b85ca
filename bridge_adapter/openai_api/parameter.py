"""One field of a request, declared once: how it is checked, described in /docs, and named in the predict body. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from bridge_adapter.errors import unsupported_parameter
from bridge_adapter.openai_api import validators
from bridge_adapter.openai_api.validators import INT64_MAX, Check

Kind = tuple[Check, dict[str, Any]]
"""A check, and the JSON Schema of what it accepts."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """`schema` None: always refused, so not described. `neutral`: the value that is left out of the predict body."""

    name: str
    check: Check
    schema: Mapping[str, Any] | None
    in_predict: bool = True
    predict_name: str = ""
    neutral: Any = None
    in_responses: bool = False

    @property
    def name_in_predict(self) -> str:
        return self.predict_name or self.name


class Parameters(Sequence[Parameter]):
    """The fields of one kind of request. What every request asks of them is looked up, not searched for."""

    def __init__(self, *parameters: Parameter) -> None:
        self._all = parameters
        self.checks: dict[str, Check] = {parameter.name: parameter.check for parameter in parameters}
        self._in_predict = {parameter.name: parameter for parameter in parameters if parameter.in_predict}
        self._renamed = {parameter.name: parameter.predict_name for parameter in parameters if parameter.predict_name}
        self.token_limits = [p.name for p in parameters if p.name_in_predict == "max_tokens"]

    @overload
    def __getitem__(self, index: int) -> Parameter: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Parameter, ...]: ...
    def __getitem__(self, index: int | slice) -> Parameter | tuple[Parameter, ...]:
        return self._all[index]

    def __len__(self) -> int:
        return len(self._all)

    @property
    def schemas(self) -> dict[str, Any]:
        return {parameter.name: parameter.schema for parameter in self._all if parameter.schema is not None}

    def check(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that are given, checked; null means absent. Raises InvalidRequest."""
        checked: dict[str, Any] = {}
        for name, value in body.items():
            check = self.checks.get(name)
            if check is None:
                validators.drop_unknown(value, name)
            elif value is not None:
                checked[name] = check(value, name)
        return checked

    def predict_fields(self, checked: Mapping[str, Any]) -> dict[str, Any]:
        """The checked fields of a request that the predict body takes over."""
        fields: dict[str, Any] = {}
        for name, value in checked.items():
            parameter = self._in_predict.get(name)
            if parameter is not None and (parameter.neutral is None or value != parameter.neutral):
                fields[parameter.predict_name or name] = value
        return fields

    def predict_names(self, checked: Mapping[str, Any]) -> dict[str, str]:
        """What the request calls each predict field that has another name there."""
        return {predict_name: name for name, predict_name in self._renamed.items() if name in checked}


def decimal(low: float, high: float, text: str) -> Kind:
    schema = {"type": ["number", "null"], "minimum": low, "maximum": high, "description": text}
    return validators.decimal(low, high), schema


def integer(low: int, high: int = INT64_MAX, text: str = "") -> Kind:
    schema = {"type": ["integer", "null"], "minimum": low, "maximum": high, "description": text}
    return validators.integer(low, high), schema


def boolean(text: str) -> Kind:
    return validators.boolean, {"type": ["boolean", "null"], "description": text}


def string(text: str, longest: int | None = None) -> Kind:
    schema: dict[str, Any] = {"type": ["string", "null"], "description": text}
    if longest is None:
        return validators.string, schema
    return validators.text(longest), schema | {"maxLength": longest}


def only(*supported: Any, known: Sequence[str] = (), droppable: bool = False) -> Kind:
    """Values without effect. `known`: OpenAI's other ones, refused or, if `droppable`, dropped like unknown fields."""
    check = validators.only(*supported, known=known, droppable=droppable)
    return check, {"enum": [*supported, None], "description": "No effect."}


def without_effect(name: str, check: Check, schema: Mapping[str, Any]) -> Parameter:
    """A field that is checked and then has no effect."""
    return Parameter(name, check, schema, in_predict=False)


def refused(name: str) -> Parameter:
    """A field of OpenAI's that no model here supports."""
    return Parameter(name, refuse, None, in_predict=False)


def refuse(value: Any, param: str) -> Any:
    raise unsupported_parameter(param)
