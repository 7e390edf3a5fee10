"""`Fields`: typed values out of a JSON object, with the errors a client of OpenAI expects."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from kt_cli.embedded.server.errors import ApiError, bad_request

T = TypeVar("T")


def parse_body(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        message = f"We could not parse the JSON body of your request: {_reason(error)}"
        raise bad_request(message, code="invalid_json") from None
    if not isinstance(body, dict):
        raise bad_request(
            f"The body of your request must be an object, but is {kind(body)}", code="invalid_type"
        )
    return body


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "arrays or objects are nested too deeply"
    if "set_int_max_str_digits" in str(error):
        return "an integer has too many digits"
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error)


def kind(value: object) -> str:
    """How a JSON value is called in a message."""
    names: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (bool, "a boolean"),
        (int, "an integer"),
        (float, "a decimal number"),
        (str, "a string"),
        (list, "an array"),
        (dict, "an object"),
    )
    return next((name for cls, name in names if isinstance(value, cls)), "null")


class Fields:
    """Reads values by name; `null` counts as absent, and `finish` refuses what nobody read."""

    def __init__(self, body: Mapping[str, Any], prefix: str = "") -> None:
        self._body = body
        self._prefix = prefix
        self._read: set[str] = set()

    def param(self, name: str) -> str:
        return f"{self._prefix}{name}"

    def raw(self, name: str) -> Any:
        self._read.add(name)
        return self._body.get(name)

    def required(self, name: str) -> Any:
        value = self.raw(name)
        if value is None:
            raise bad_request(
                f"Missing required parameter: '{self.param(name)}'",
                self.param(name),
                "missing_required_parameter",
            )
        return value

    def boolean(self, name: str, default: bool = False) -> bool:
        return bool(self._typed(name, default, "a boolean", lambda v: isinstance(v, bool)))

    def text(self, name: str, default: str = "") -> str:
        value = self._typed(name, default, "a string", lambda v: isinstance(v, str))
        return check_text(value, self.param(name))

    def integer(self, name: str, default: T, low: int, high: int) -> int | T:
        value = self._typed(name, None, "an integer", is_integer)
        if value is None:
            return default
        return int(self._within(name, value, low, high, "integer"))

    def number(self, name: str, default: float, low: float, high: float) -> float:
        value = self._typed(name, default, "a number", is_number)
        return float(self._within(name, value, low, high, "decimal"))

    def choice(self, name: str, default: str, choices: Collection[str]) -> str:
        value = self.text(name, default)
        if value not in choices:
            raise invalid_value(value, self.param(name), choices)
        return value

    def mapping(self, name: str) -> dict[str, Any] | None:
        value: dict[str, Any] | None = self._typed(
            name, None, "an object", lambda v: isinstance(v, dict)
        )
        return value

    def ignore(self, names: Collection[str]) -> None:
        """Accepts what has no bearing on the answer."""
        self._read.update(names)

    def finish(self) -> None:
        for name in self._body:
            if name not in self._read:
                raise bad_request(
                    f"Unknown parameter: '{self.param(name)}'",
                    self.param(name),
                    "unknown_parameter",
                )

    def _typed(self, name: str, default: Any, wanted: str, fits: Callable[[Any], bool]) -> Any:
        value = self.raw(name)
        if value is None:
            return default
        if not fits(value):
            raise wrong_type(value, self.param(name), wanted)
        return value

    def _within(self, name: str, value: Any, low: float, high: float, noun: str) -> Any:
        if low <= value <= high:
            return value
        side, sign, bound = ("below_min", ">=", low) if value < low else ("above_max", "<=", high)
        message = (
            f"Invalid '{self.param(name)}': {noun} {side.replace('_', ' ')}imum value, "
            f"expected a value {sign} {bound}, but got {value} instead"
        )
        code = f"{noun}_{side}_value"
        raise bad_request(message, self.param(name), code)


def is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    return is_integer(value) or isinstance(value, float)


def wrong_type(value: object, param: str, wanted: str) -> ApiError:
    message = f"Invalid type for '{param}': expected {wanted}, but got {kind(value)} instead"
    return bad_request(message, param, "invalid_type")


def invalid_value(value: str, param: str, choices: Collection[str]) -> ApiError:
    known = ", ".join(f"'{choice}'" for choice in choices)
    message = f"Invalid value for '{param}': '{value}', supported values are: {known}"
    return bad_request(message, param, "invalid_value")


def check_text(value: str, param: str) -> str:
    """Refuses lone surrogates, which JSON can carry and no tokenizer can encode."""
    try:
        value.encode()
    except UnicodeEncodeError:
        message = f"Invalid '{param}': the text is not valid Unicode"
        raise bad_request(message, param, "invalid_unicode") from None
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
