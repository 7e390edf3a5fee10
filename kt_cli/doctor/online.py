"""Asks the model hub whether it answers, and what time it has."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from kt_cli.doctor.facts import Hub

DEFAULT = "https://huggingface.co"
TIMEOUT_S = 4.0


def ask(env: Mapping[str, str]) -> Hub:
    """HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and the proxy variables count."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    endpoint = env.get("HF_ENDPOINT", DEFAULT).rstrip("/")
    if env.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        return Hub(endpoint, "HF_HUB_OFFLINE is set", offline=True)
    token = env.get("HF_TOKEN", "")
    path = "/api/whoami-v2" if token else "/api/models?limit=1"
    headers = {"User-Agent": "kt"} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urlopen(Request(endpoint + path, headers=headers), timeout=TIMEOUT_S) as answer:
            return Hub(endpoint, clock_ahead=_ahead(answer.headers.get("Date")))
    except HTTPError as refused:
        ahead = _ahead(refused.headers.get("Date"))
        said = "HF_TOKEN is not valid (401)" if token and refused.code == 401 else ""
        return Hub(endpoint, said or f"it answers {refused.code}", clock_ahead=ahead)
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Hub(endpoint, str(reason) or type(error).__name__, offline=True)


def _ahead(date: str | None) -> float | None:
    try:
        return time.time() - parsedate_to_datetime(date).timestamp() if date else None
    except ValueError:
        return None
