"""The messages of a chat, checked and brought to what a chat template reads."""

from __future__ import annotations

from typing import Any

from kt_cli.embedded.server.errors import bad_request, unsupported
from kt_cli.embedded.server.fields import Fields, check_text, invalid_value, wrong_type

ROLES = ("system", "developer", "user", "assistant")
TOOL_ROLES = ("tool", "function")
MEDIA = ("image_url", "input_audio", "file", "video_url")


def parse_messages(raw: Any) -> tuple[dict[str, Any], ...]:
    if not isinstance(raw, list):
        raise wrong_type(raw, "messages", "an array of objects")
    if not raw:
        message = "Invalid 'messages': empty array, expected at least one message"
        raise bad_request(message, "messages", "empty_array")
    return tuple(_message(item, f"messages[{index}]") for index, item in enumerate(raw))


def _message(raw: Any, param: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise wrong_type(raw, param, "an object")
    fields = Fields(raw, f"{param}.")
    role = _role(fields, param)
    message = {"role": role, "content": _content(fields, param, role)}
    for name in ("name", "reasoning_content"):
        if text := fields.text(name):
            message[name] = text
    if fields.raw("tool_calls") or fields.raw("function_call"):
        raise unsupported("Tool calling", f"{param}.tool_calls")
    fields.ignore(("refusal", "audio", "annotations"))
    fields.finish()
    return message


def _role(fields: Fields, param: str) -> str:
    fields.required("role")
    role = fields.text("role")
    if role in TOOL_ROLES:
        raise unsupported(f"A message of role '{role}'", f"{param}.role")
    if role not in ROLES:
        raise invalid_value(role, f"{param}.role", ROLES)
    return "system" if role == "developer" else role


def _content(fields: Fields, param: str, role: str) -> str:
    raw = fields.raw("content") if role == "assistant" else fields.required("content")
    param = f"{param}.content"
    if raw is None:
        return ""
    if isinstance(raw, str):
        return check_text(raw, param)
    if not isinstance(raw, list):
        raise wrong_type(raw, param, "a string or an array of parts")
    return "".join(_part(part, f"{param}[{index}]") for index, part in enumerate(raw))


def _part(raw: Any, param: str) -> str:
    if not isinstance(raw, dict):
        raise wrong_type(raw, param, "an object")
    fields = Fields(raw, f"{param}.")
    fields.required("type")
    kind = fields.text("type")
    if kind in MEDIA:
        raise unsupported(f"Content of type '{kind}'", f"{param}.type")
    if kind not in ("text", "refusal"):
        raise invalid_value(kind, f"{param}.type", ("text",))
    fields.required(kind)
    return fields.text(kind)
