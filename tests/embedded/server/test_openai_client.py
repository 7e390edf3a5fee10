"""The official client works unchanged."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from openai import AsyncOpenAI, BadRequestError, OpenAI

from embedded.server.fake import Script
from embedded.server.running import Running, serving

HELLO = [{"role": "user", "content": "hi"}]


@pytest.fixture
def server() -> Iterator[Running]:
    with serving(Script(cached=3)) as running:
        yield running


@pytest.fixture
def client(server: Running) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_chat_is_answered_whole(client, server):
    answer = client.chat.completions.create(model="fake", messages=HELLO)
    assert answer.choices[0].message.content == "Hello world!"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens == len("<user>hi")
    assert answer.usage.completion_tokens == 5
    assert answer.usage.total_tokens == len("<user>hi") + 5
    assert answer.usage.prompt_tokens_details.cached_tokens == 3


def test_chat_streams_role_then_text_then_reason(client):
    chunks = list(client.chat.completions.create(model="fake", messages=HELLO, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "Hello world!"
    assert [c.choices[0].finish_reason for c in chunks][-1] == "stop"
    assert {c.id for c in chunks} == {chunks[0].id}
    assert all(c.usage is None for c in chunks)


def test_stream_ends_with_usage_on_request(client):
    options = {"include_usage": True}
    chunks = list(
        client.chat.completions.create(
            model="fake", messages=HELLO, stream=True, stream_options=options
        )
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 5
    assert all(c.usage is None for c in chunks[:-1])


def test_completions_stream_and_whole(client):
    whole = client.completions.create(model="fake", prompt="once")
    assert whole.choices[0].text == "Hello world!"
    parts = client.completions.create(model="fake", prompt="once", stream=True)
    assert "".join(part.choices[0].text for part in parts) == "Hello world!"


def test_several_prompts_and_choices_keep_their_order():
    with serving(Script(reply=lambda prompt: list(prompt.upper()))) as server:
        client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        answer = client.completions.create(model="fake", prompt=["ab", "cd"], n=2)
        client.close()
    assert [c.text for c in answer.choices] == ["AB", "AB", "CD", "CD"]
    assert [c.index for c in answer.choices] == [0, 1, 2, 3]
    assert answer.usage.prompt_tokens == 4
    assert answer.usage.completion_tokens == 8


def test_prompt_as_token_ids(client, server):
    ids = [ord(char) for char in "xyz"]
    assert client.completions.create(model="fake", prompt=ids).usage.prompt_tokens == 3
    both = client.completions.create(model="fake", prompt=[ids, ids])
    assert both.usage.prompt_tokens == 6


def test_sampling_reaches_the_engine(client, server):
    client.chat.completions.create(
        model="fake",
        messages=HELLO,
        temperature=0.3,
        top_p=0.9,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        seed=11,
        max_completion_tokens=9,
        stop=["END", "\n\n"],
        logit_bias={"5": -100},
        n=2,
        extra_body={"top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1},
    )
    first, second = server.engine.submitted
    assert (first.temperature, first.top_p, first.top_k, first.min_p) == (0.3, 0.9, 40, 0.05)
    assert (first.presence_penalty, first.frequency_penalty) == (0.5, -0.5)
    assert first.repetition_penalty == 1.1
    assert (first.max_tokens, first.stop, first.logit_bias) == (9, ("END", "\n\n"), ((5, -100.0),))
    assert (first.seed, second.seed) == (11, 12)


def test_answer_may_fill_the_context_when_no_length_is_given(client, server):
    client.chat.completions.create(model="fake", messages=HELLO)
    assert server.engine.submitted[0].max_tokens == 256 - len("<user>hi")


def test_a_small_kv_cache_bounds_an_answer_of_any_length():
    with serving(Script(context=256, kv_total=40)) as server:
        assert server.chat().status_code == 200
        assert server.engine.submitted[0].max_tokens == 40 - len("<user>hi")
        assert server.chat(max_tokens=100).json()["error"]["code"] == "context_length_exceeded"


def test_length_is_the_reason_when_tokens_run_out(client):
    answer = client.chat.completions.create(model="fake", messages=HELLO, max_tokens=2)
    assert answer.choices[0].message.content == "Hello"
    assert answer.choices[0].finish_reason == "length"


def test_stop_string(client):
    answer = client.chat.completions.create(model="fake", messages=HELLO, stop=" wor")
    assert answer.choices[0].message.content == "Hello"
    assert answer.choices[0].finish_reason == "stop"


def test_chat_logprobs(client):
    answer = client.chat.completions.create(
        model="fake", messages=HELLO, logprobs=True, top_logprobs=2
    )
    content = answer.choices[0].logprobs.content
    assert [item.token for item in content] == ["Hel", "lo", " wor", "ld", "!"]
    assert content[0].bytes == list(b"Hel")
    assert [top.logprob for top in content[0].top_logprobs] == [-0.5, -1.5]
    plain = client.chat.completions.create(model="fake", messages=HELLO)
    assert plain.choices[0].logprobs is None


def test_completion_logprobs_stream_like_they_come_whole(client):
    whole = client.completions.create(model="fake", prompt="a", logprobs=1).choices[0].logprobs
    chunks = client.completions.create(model="fake", prompt="a", logprobs=1, stream=True)
    parts = [chunk.choices[0].logprobs for chunk in chunks]
    assert whole.text_offset == [0, 3, 5, 9, 11]
    assert [offset for part in parts for offset in part.text_offset] == whole.text_offset
    assert [token for part in parts for token in part.tokens] == whole.tokens


def test_parts_of_text_are_joined_and_developer_is_system(client, server):
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "developer", "content": "D"}, {"role": "user", "content": parts}]
    answer = client.chat.completions.create(model="fake", messages=messages)
    assert answer.usage.prompt_tokens == len("<system>D<user>ab")


def test_models(client):
    assert [model.id for model in client.models.list()] == ["fake"]
    assert client.models.retrieve("fake").owned_by == "kt"


def test_tools_are_refused_unless_not_wanted(client):
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    with pytest.raises(BadRequestError) as caught:
        client.chat.completions.create(model="fake", messages=HELLO, tools=tools)
    assert caught.value.param == "tools"
    answer = client.chat.completions.create(
        model="fake", messages=HELLO, tools=tools, tool_choice="none"
    )
    assert answer.choices[0].message.content == "Hello world!"


@pytest.mark.parametrize("kind", ["json_object", "json_schema"])
def test_constrained_output_is_refused_by_name(client, kind):
    wanted = {"type": kind, "json_schema": {"name": "x", "schema": {}}}
    with pytest.raises(BadRequestError, match=f"Constrained output.*{kind}"):
        client.chat.completions.create(model="fake", messages=HELLO, response_format=wanted)


def test_thirty_two_at_once_over_four_slots():
    with serving(Script(pause=0.005, slots=4)) as server, ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(lambda k: server.chat(f"number {k}"), range(32)))
    texts = {a.json()["choices"][0]["message"]["content"] for a in answers}
    assert [a.status_code for a in answers] == [200] * 32
    assert texts == {"Hello world!"}


def test_async_clients_interleave():
    async def ask(client: AsyncOpenAI) -> str:
        stream = await client.chat.completions.create(model="fake", messages=HELLO, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def many(url: str) -> list[str]:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            return await asyncio.gather(*(ask(client) for _ in range(16)))

    with serving(Script(pause=0.005, slots=16)) as server:
        assert asyncio.run(many(server.url)) == ["Hello world!"] * 16


def test_text_survives_the_wire():
    tokens = ["ü", "日本", "🙂", "\u2028", "[red]", '"\\', "\n"]
    with serving(Script(reply=lambda _: tokens)) as server:
        client = OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        chunks = list(client.chat.completions.create(model="fake", messages=HELLO, stream=True))
        client.close()
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "".join(tokens)
