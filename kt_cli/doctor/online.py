"""Asks the model hub whether it answers, and what time it has."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from kt_cli import environment, network
from kt_cli.doctor.facts import Hub
from kt_cli.errors import KtError

DEFAULT = "https://huggingface.co"
TIMEOUT_S = 4.0


def ask(env: Mapping[str, str]) -> Hub:
    """HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and the proxy variables count."""
    try:
        endpoint = environment.url("HF_ENDPOINT", DEFAULT, env)
        if environment.flag("HF_HUB_OFFLINE", env):
            return Hub(endpoint, "HF_HUB_OFFLINE is set", offline=True)
        return _ask(endpoint, environment.secret("HF_TOKEN", env), env)
    except KtError as wrong:
        return Hub(DEFAULT, f"{wrong.what}: {wrong.why}".rstrip(": "))


def _ask(endpoint: str, token: str, env: Mapping[str, str]) -> Hub:
    """Raises KtError for a variable that is wrong."""
    import httpx

    path = "/api/whoami-v2" if token else "/api/models?limit=1"
    headers = {"User-Agent": "kt"} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        with network.client(env, timeout=TIMEOUT_S, follow_redirects=True) as session:
            answer = session.get(endpoint + path, headers=headers)
    except httpx.HTTPError as error:
        return Hub(endpoint, str(error) or type(error).__name__, offline=True)
    ahead = _ahead(answer.headers.get("Date"))
    if answer.is_success:
        return Hub(endpoint, clock_ahead=ahead)
    said = "HF_TOKEN is not valid (401)" if token and answer.status_code == 401 else ""
    return Hub(endpoint, said or f"it answers {answer.status_code}", clock_ahead=ahead)


def _ahead(date: str | None) -> float | None:
    try:
        return time.time() - parsedate_to_datetime(date).timestamp() if date else None
    except ValueError:
        return None
