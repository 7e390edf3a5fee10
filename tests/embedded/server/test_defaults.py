"""A model's recommended sampling holds where a request says nothing."""

import json

import pytest

from kt_cli.embedded.api import Sampling
from kt_cli.embedded.server.defaults import read_defaults
from kt_cli.embedded.server.schema import parse_chat

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def defaults(folder, **config: object) -> Sampling:
    (folder / "generation_config.json").write_text(json.dumps(config))
    return read_defaults(folder)


def test_the_model_recommends_and_the_request_decides(tmp_path):
    recommended = defaults(tmp_path, temperature=0.2, top_p=0.9, top_k=20, eos_token_id=[1, 2])
    assert (recommended.temperature, recommended.top_p, recommended.top_k) == (0.2, 0.9, 20)
    plain = parse_chat(BODY, recommended).sampling
    assert (plain.temperature, plain.top_p, plain.top_k) == (0.2, 0.9, 20)
    asked = parse_chat({**BODY, "temperature": 1, "top_p": 0}, recommended).sampling
    assert (asked.temperature, asked.top_p, asked.top_k) == (1.0, 1e-9, 20)


def test_nonsense_is_left_out_and_the_rest_holds(tmp_path):
    assert defaults(tmp_path, temperature="hot", top_p=7, top_k=5) == Sampling(top_k=5)


@pytest.mark.parametrize("content", [None, "", "[1]", "{"])
def test_no_recommendation(tmp_path, content):
    if content is not None:
        (tmp_path / "generation_config.json").write_text(content)
    assert read_defaults(tmp_path) == Sampling()
