"""Asks a server whether it is ready, and what it is doing."""

from __future__ import annotations

import http.client
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from kt_cli.core.engine_report import Difference, EngineReport

_PAUSE_S = 0.1
_LOADING_S = 0.5
"""Once it answers at all: SGLang writes each question to its log."""
_TIMEOUT_S = 2.0
_PATIENCE_S = 30.0
"""SGLang answers when it has generated a token, which may take it seconds, and gives up after 20;
whoever hangs up earlier and asks again only adds to its work."""
_SAMPLE_S = 0.4
_Refused = (OSError, http.client.HTTPException)


@dataclass(frozen=True, slots=True)
class Address:
    url: str
    path: str
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """What a server is doing; None where it does not say."""

    running: int | None = None
    waiting: int | None = None
    tokens_s: float | None = None
    """Generated tokens per second, over all requests."""
    generated: int | None = None
    kv_used: int | None = None
    """Tokens in the KV cache, and how many it can hold."""
    kv_total: int | None = None
    lags: bool = False
    """`running` may be what was a while ago."""
    report: EngineReport = field(default_factory=EngineReport)
    failing: str = ""
    """Why one answer after the other fails."""


class ReadyProbe(threading.Thread):
    """Asks until the answer is 200 and `ours` agrees, then writes one byte to `wake`."""

    def __init__(self, address: Address, wake: int, ours: Callable[[], bool]) -> None:
        super().__init__(daemon=True)
        self._address = address
        self._wake = wake
        self._ours = ours
        self._ended = threading.Event()
        self._hurry = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            answer = status(self._address, _PATIENCE_S)
            if answer == 200 and self._ours():
                os.write(self._wake, b"r")
                return
            self._hurry.wait(_PAUSE_S if answer is None else _LOADING_S)
            self._hurry.clear()

    def hurry(self) -> None:
        self._hurry.set()

    def end(self) -> None:
        self._ended.set()
        self._hurry.set()


def status(address: Address, timeout_s: float = _TIMEOUT_S) -> int | None:
    """The HTTP status; None when nobody answers in time."""
    answer = _get(address, timeout_s)
    return None if answer is None else answer[0]


def load(address: Address, timeout_s: float = 0.5) -> Load:
    """From the server's Prometheus metrics: this project's names or SGLang's.

    A busy server that only counts its tokens is asked twice to tell its speed. One whose count
    stands still generates nothing: SGLang says for half a minute what it did last.
    """
    first, began = _load(address, timeout_s), time.monotonic()
    if first.generated is None or first.tokens_s is not None:
        return first
    if not first.running:
        return replace(first, tokens_s=0.0)
    time.sleep(_SAMPLE_S)
    second = _load(address, timeout_s)
    if second.generated is None:
        return first
    gained = second.generated - first.generated
    running = second.running if gained or second.waiting or not second.lags else 0
    return replace(second, running=running, tokens_s=gained / (time.monotonic() - began))


def _load(address: Address, timeout_s: float) -> Load:
    answer = _get(address, timeout_s)
    if answer is None or answer[0] != 200:
        return Load()
    return read_load(answer[1].decode(errors="replace"))


def read_load(text: str) -> Load:
    """A release of SGLang that does not count each token tells its speed itself, late."""
    values = _samples(text)
    live = values.get(_LIVE)
    if live is not None:
        values["sglang:generation_tokens_total"] = live
        values.pop("sglang:gen_throughput", None)
    return Load(
        _whole(values, "kt_requests_running", "sglang:num_running_reqs"),
        _whole(values, "kt_requests_waiting", "sglang:num_queue_reqs"),
        values.get("sglang:gen_throughput"),
        _whole(values, "kt_generated_tokens_total", "sglang:generation_tokens_total"),
        _whole(values, "kt_kv_tokens_used", "sglang:num_used_tokens"),
        _whole(values, "kt_kv_tokens", "sglang:max_total_num_tokens"),
        lags=live is not None,
        report=_report(text),
        failing=next(_labelled(text, "kt_failing"), {}).get("reason", ""),
    )


def _report(text: str) -> EngineReport:
    uses = next(_labelled(text, "kt_engine_info"), {})
    found = _labelled(text, "kt_plan_differences")
    fields = ("name", "planned", "used")
    return EngineReport(uses, tuple(Difference(*(x.get(f, "") for f in fields)) for x in found))


def _labelled(text: str, name: str) -> Iterator[dict[str, str]]:
    """The labels of each sample of a metric."""
    for line in text.split("\n"):
        if line.startswith(name + "{"):
            pairs = _LABEL.findall(line)
            yield {key: _ESCAPE.sub(lambda m: _PLAIN[m[1]], value) for key, value in pairs}


_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPE = re.compile(r'\\([\\n"])')
_PLAIN = {"n": "\n", '"': '"', "\\": "\\"}


def _get(address: Address, timeout_s: float) -> tuple[int, bytes] | None:
    parts = urlsplit(address.url)
    headers = {"Authorization": f"Bearer {address.key}"} if address.key else {}
    link = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        link.request("GET", address.path, headers=headers)
        answer = link.getresponse()
        return answer.status, answer.read(4_000_000)
    except _Refused:
        return None
    finally:
        link.close()


_LIVE = "sglang:realtime_tokens_total/decode"
_MODE = re.compile(r'[{,]mode="(\w+)"')


def _samples(text: str) -> dict[str, float]:
    """Metric, with its mode if it has one → value, summed over other labels (Prometheus text
    format 0.0.4)."""
    values: dict[str, float] = {}
    for line in text.split("\n"):
        if line.startswith("#"):
            continue
        head, _, number = line.rpartition(" ")
        mode = _MODE.search(head)
        name = head.partition("{")[0] + (f"/{mode[1]}" if mode else "")
        try:
            values[name] = values.get(name, 0.0) + float(number)
        except ValueError:
            continue
    return values


def _first(values: Mapping[str, float], *names: str) -> float | None:
    return next((values[n] for n in names if n in values), None)


def _whole(values: Mapping[str, float], *names: str) -> int | None:
    value = _first(values, *names)
    return None if value is None else int(value)
