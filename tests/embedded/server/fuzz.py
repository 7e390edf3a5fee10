"""Seeded requests of all kinds, most of them wrong, as bytes for a socket."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

NUMBERS = ["0", "-0.0", "-1", "1", "3", "0.5", "1e-320", "5e-324", "1e308", "1e999", "-1e999"]
NUMBERS += ["NaN", "-Infinity", "1e-9", "100", "101", "2147483648", "9223372036854775808"]
NUMBERS += ["-9223372036854775809", "1" * 400, "9" * 4300, "9" * 5000, "0." + "3" * 500, "01", "+1"]
STRINGS = [
    '""',
    '"a"',
    r'"\ud800"',
    r'"\udfff\ud800"',
    r'"\u0000"',
    r'"\u001b]52;c;x\u0007"',
    '"é😀"',
]
STRINGS += ['"true"', '"1"', r'"‮\u202e"', '"' + "x" * 3000 + '"', '"<|im_end|>"', '"{{ 9**9**9 }}"']
STRINGS += [
    '"auto"',
    '"none"',
    '"text"',
    '"json_object"',
    '"tool"',
    '"system"',
    '"developer"',
    r'"\x"',
]
OTHERS = [
    "null",
    "true",
    "false",
    "[]",
    "{}",
    "[null]",
    "[1]",
    '["a"]',
    '[""]',
    "[[1]]",
    '{"a": 1}',
]
OTHERS += ['{"type": "text"}', '[{"type": "text", "text": "a"}]', '[{"type": "image_url"}]']
OTHERS += [
    '{"include_usage": true}',
    '{"5": 1}',
    r'{"\ud800": 1}',
    '{"5": 1e999}',
    '["a", "b", "c"]',
]
OTHERS += ["[" * 40 + "]" * 40, "[" * 900 + "]" * 900, "[" * 9000 + "]" * 9000, "[1, 2, 3]"]
OTHERS += ['{"a":' * 900 + "1" + "}" * 900, "[true]", "[99999999]", "[-1]", "[1.5]", "", "@"]
NAMES = ["model", "n", "stream", "stream_options", "temperature", "top_p", "top_k", "min_p", "seed"]
NAMES += ["repetition_penalty", "presence_penalty", "frequency_penalty", "stop", "logit_bias"]
NAMES += ["logprobs", "top_logprobs", "max_tokens", "max_completion_tokens", "ignore_eos", "user"]
NAMES += ["metadata", "store", "service_tier", "tools", "tool_choice", "functions", "function_call"]
NAMES += [
    "response_format",
    "modalities",
    "audio",
    "reasoning_effort",
    "verbosity",
    "echo",
    "suffix",
]
NAMES += [
    "best_of",
    "prediction",
    "parallel_tool_calls",
    "messages",
    "prompt",
    "unknown",
    "\\ud800",
]
MESSAGE_NAMES = [
    "role",
    "content",
    "name",
    "tool_calls",
    "function_call",
    "refusal",
    "\\udc00",
    "x",
]
MESSAGE_NAMES += ["reasoning_content", "audio", "annotations", "tool_call_id"]
PATHS = ["/", "/health", "/metrics", "/v1/models", "/v1/models/x", "/v1/models/%ed%a0%80", "//x/v1"]
PATHS += ["/v1/models/%0d%0aX: y", "/v1/embeddings", "/v1/chat/completions/", "/%ff", "/?[x", "*"]
PATHS += ["/v1/completions?a=[", "http://[/", "/" + "a" * 70_000, "/v1/../etc/passwd", "", "/a b"]
METHODS = ["GET", "POST", "HEAD", "PUT", "OPTIONS", "DELETE", "get", "X" * 300, "P\x00ST"]
HEADERS = [
    "Host: evil.example",
    "Host: [",
    "Origin: http://evil.example",
    "Sec-Fetch-Site: cross-site",
]
HEADERS += ["Content-Type: text/plain", "Content-Type: ", "Content-Encoding: gzip", "Expect: x"]
HEADERS += ["Transfer-Encoding: chunked", "Transfer-Encoding: gzip", "Content-Length: 5", "A b: c"]
HEADERS += [
    "Content-Length: -1",
    "Content-Length: x",
    "Content-Length: " + "9" * 400,
    "Upgrade: h2c",
]
HEADERS += [
    "X: " + "a" * 70_000,
    "Authorization: Bearer x",
    "Connection: Upgrade",
    ": x",
    "\xff: \xff",
]
T = TypeVar("T")
Pairs = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Case:
    """`raw` is sent; `ends` when the client then closes its sending side."""

    raw: bytes
    ends: bool = False


class Fuzz:
    def __init__(self, seed: int, model: str) -> None:
        self._random = random.Random(seed)
        self._model = json.dumps(model)

    def case(self) -> Case:
        kinds: Sequence[Callable[[], Case]] = (self._fields, self._bytes, self._http, self._framing)
        return self._random.choices(kinds, (70, 10, 12, 8))[0]()

    def _fields(self) -> Case:
        path, pairs = self._chat() if self._random.random() < 0.6 else self._completion()
        for _ in range(self._random.choice((0, 1, 1, 2, 3))):
            self._spoil(pairs, NAMES)
        return Case(post(path, _object(pairs).encode()))

    def _bytes(self) -> Case:
        """A body that is damaged as text."""
        path, pairs = self._completion()
        body = bytearray(
            _object(pairs).encode(self._pick(("utf-8", "utf-16", "utf-32", "utf-8-sig")))
        )
        for _ in range(self._random.randrange(4)):
            body[self._random.randrange(len(body))] = self._random.randrange(256)
        return Case(post(path, bytes(body[: self._random.randrange(len(body) + 1)])))

    def _http(self) -> Case:
        """Methods, paths and headers that do not belong together."""
        _, pairs = self._completion()
        body = _object(pairs).encode()
        extra = [self._pick(HEADERS) for _ in range(self._random.randrange(3))]
        path = self._pick([*PATHS, "/v1/completions", "/v1/completions", "/v1/chat/completions"])
        raw = post(path, body, self._pick([*METHODS, "POST", "POST"]), extra)
        return Case(raw, ends=True)

    def _framing(self) -> Case:
        """What is not HTTP, or ends in the middle."""
        body = _object(self._completion()[1]).encode()
        whole = post("/v1/completions", body)
        head = post("/v1/completions", b"", extra=["Transfer-Encoding: chunked"], length=False)
        chunk = b"%x\r\n%s\r\n" % (len(body), body)
        noise = self._random.randbytes(self._random.randrange(1, 300))
        return self._pick(
            [
                Case(whole[: self._random.randrange(len(whole))], ends=True),
                Case(noise + b"\r\n\r\n", ends=True),
                Case(head + chunk + b"0\r\n\r\n"),
                Case(head + chunk + b"zz\r\n", ends=True),
                Case(head + b"-5\r\n" + body, ends=True),
                Case(head + b"ffffffffffffffffffff\r\n" + body, ends=True),
                Case(head + chunk + noise, ends=True),
                Case(whole.replace(b"Connection: close\r\n", b"") + noise, ends=True),
                Case(whole.replace(b"HTTP/1.1", self._pick([b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9"]))),
            ]
        )

    def _chat(self) -> tuple[str, Pairs]:
        texts = ['"hi"', '[{"type": "text", "text": "hi"}]', '"é😀"']
        message: Pairs = [("role", '"user"'), ("content", self._pick(texts))]
        if self._random.random() < 0.3:
            self._spoil(message, MESSAGE_NAMES)
        messages = f"[{_object(message)}]"
        return "/v1/chat/completions", [
            *self._common("max_completion_tokens"),
            ("messages", messages),
        ]

    def _completion(self) -> tuple[str, Pairs]:
        prompt = self._pick(['"hi"', '["a", "b"]', "[5, 6]", "[[5], [6]]"])
        return "/v1/completions", [*self._common("max_tokens"), ("prompt", prompt)]

    def _common(self, limit: str) -> Pairs:
        stream = self._pick(("true", "false", "false"))
        return [("model", self._model), (limit, self._pick("123")), ("stream", stream)]

    def _spoil(self, pairs: Pairs, names: Sequence[str]) -> None:
        """Replaces a value, adds one, or says one twice."""
        value = self._pick([*NUMBERS, *STRINGS, *OTHERS])
        if self._random.random() < 0.2:
            value = f"[{value}, {self._pick(STRINGS)}]"
        name = self._pick(names)
        if self._random.random() < 0.8:
            pairs[:] = [pair for pair in pairs if pair[0] != name]
        pairs.insert(self._random.randrange(len(pairs) + 1), (name, value))

    def _pick(self, items: Sequence[T]) -> T:
        return items[self._random.randrange(len(items))]


def post(
    path: str, body: bytes, method: str = "POST", extra: Sequence[str] = (), length: bool = True
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1"]
    if not any(line.startswith("Host:") for line in extra):
        lines.append("Host: localhost")
    if not any(line.startswith("Content-Type:") for line in extra):
        lines.append("Content-Type: application/json")
    if length:
        lines.append(f"Content-Length: {len(body)}")
    lines += [*extra, "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def _object(pairs: Pairs) -> str:
    return "{" + ", ".join(f'"{name}": {value}' for name, value in pairs) + "}"


def send(address: tuple[str, int], case: Case, timeout: float) -> bytes:
    """The whole answer; raises TimeoutError when the server does not come to an end."""
    with socket.create_connection(address, timeout) as sock:
        sock.sendall(case.raw)
        if case.ends:
            sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(2**16), b""))


def answers(raw: bytes) -> list[tuple[int, bytes]]:
    """Status and body of each answer of one connection."""
    found = []
    while raw:
        head, _, raw = raw.partition(b"\r\n\r\n")
        lower = head.lower()
        status = int(head.split()[1])
        if b"transfer-encoding: chunked" in lower:
            body, raw = _chunked(raw)
        elif b"content-length: " in lower and status != 100:
            size = int(lower.partition(b"content-length: ")[2].split()[0])
            body, raw = raw[:size], raw[size:]
        else:
            body, raw = raw, b""
        found.append((status, body))
    return found


def _chunked(raw: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        size, _, raw = raw.partition(b"\r\n")
        count = int(size, 16)
        body, raw = body + raw[:count], raw[count + 2 :]
        if not count:
            return body, raw


def wrong(status: int, body: bytes) -> str:
    """What is wrong with an answer; empty when nothing is."""
    if status >= 500 or status < 200:
        return f"status {status}"
    if status < 300:
        return "" if _complete(body) else "an answer that is not complete"
    if not body:
        return ""  # of HEAD
    error = json.loads(body)["error"]
    if set(error) != {"message", "type", "param", "code"}:
        return f"shape {sorted(error)}"
    if error["type"] != "invalid_request_error" or not isinstance(error["code"], str):
        return f"type {error['type']}, code {error['code']}"
    said = error["message"] + (error["param"] or "")
    return "" if said.isprintable() and len(said) < 1500 else "an error that is not readable"


def _complete(body: bytes) -> bool:
    text = body.decode()
    if text.startswith("data: "):
        events = [line.removeprefix("data: ") for line in text.splitlines() if line[:1] == "d"]
        return events[-1] == "[DONE]" and all("error" not in json.loads(e) for e in events[:-1])
    return not text or text.startswith("#") or isinstance(json.loads(text), dict)
