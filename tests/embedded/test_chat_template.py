"""Chat templates do what they do in transformers, and nothing that they do reaches further."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from kt_cli.embedded.chat_template import ChatTemplate, TemplateLimits
from kt_cli.embedded.tokenizer import Tokenizer

LIMITS = TemplateLimits(cpu_s=0.5, memory_bytes=2**28, most_characters=2**20)
HI = [{"role": "user", "content": "hi"}]
TALK = [
    {"role": "system", "content": "Be é€😀 \n brief."},
    {"role": "user", "content": "  one "},
    {"role": "assistant", "content": "1", "reasoning_content": "counted"},
    {"role": "user", "content": "<two>"},
]
VALUES = {"bos_token": "<s>", "eos_token": "</s>"}
CHATML = (
    "{%- for m in messages %}\n  {{ '<|im_start|>' + m['role'] + '\\n' + m.content|trim }}"
    "{%- endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LIKE_TRANSFORMERS = [
    CHATML,
    "{{ bos_token }}{% for m in messages %}{% if loop.index0 == 2 %}{% break %}{% endif %}"
    "{{ m.role }}={{ m.content }}{% endfor %}{{ eos_token }}",
    "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "{{ messages|tojson }}{{ messages|tojson(indent=2) }}{{ messages[0].content|tojson }}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}"
    "{{ ns.n }}",
    "{% for m in messages %}{{ m.reasoning_content or '-' }}{{ m.thinking or '-' }}{% endfor %}",
    "{% if tools is none and documents is none %}none{% endif %}{{ strftime_now('%%') }}",
    "{% macro say(x) %}[{{ x }}]{% endmacro %}{{ say(messages[1].content.strip().upper()) }}",
    "{{ messages|map(attribute='role')|join(',') }}{{ dict(a=1) }}{{ range(3)|list }}",
    "{{ '%s-%05d'|format('a', 7) }}{{ '{:>8}'.format('a') }}{{ 'a,b'.split(',')[-1] }}",
]


@pytest.mark.parametrize("template", LIKE_TRANSFORMERS)
def test_a_template_renders_as_in_transformers(template):
    reference, _ = render_jinja_template(
        [TALK], chat_template=template, add_generation_prompt=True, **VALUES
    )
    made = ChatTemplate(template, VALUES)
    assert made.render(TALK) == reference[0]
    made.close()


PARTS = [
    "{% for m in messages %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endfor %}",
    "{% for m in messages %}{{ m.content[0].text }}{% endfor %}",
    "{% for m in messages %}{{ m.content|selectattr('type', 'equalto', 'text')"
    "|map(attribute='text')|join }}{% endfor %}",
    "{% for m in messages %}{% for p in m.content if p.type == 'text' %}{{ p.text }}{% endfor %}"
    "{% endfor %}",
]
EITHER = (
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endif %}{% endfor %}"
)


def test_text_gets_through_templates_that_read_typed_parts():
    for template, wanted in [*((t, "hi") for t in PARTS), (EITHER, "hi"), ("always", "always")]:
        made = ChatTemplate(template, {})
        assert made.render(HI) == wanted, template
        made.close()


WITHOUT_END = [
    "{{ 9**(9**9) }}",
    "{{ 10 ** (10 ** 8) }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}x",
    "{{ 'a' * 10**9 }}",
    "{{ 'a' * 10**11 }}",
    "{{ [1] * 10**10 }}",
    "{{ 'a'.center(3*10**9) }}{{ 'a'|center(3*10**9) }}",
    "{{ '%*d' % (10**9, 1) }}",
    "{{ '{:>999999999}'.format(1) }}",
    "{{ '\t'.expandtabs(10**10) }}",
    "{{ (1).to_bytes(10**10, 'big') }}",
    "{{ ('a' * 10**5).replace('a', 'b' * 10**6) }}",
    "{{ range(99999)|map('string')|join('a' * 100000) }}",
    "{{ [1]|batch(10**10, 'x')|list }}",
    "{{ 1.5|round(10**9, 'ceil') }}",
    "{{ 'a\nb'|indent(10**10) }}",
    "{{ messages|tojson(indent=10**10) }}",
    "{% set ns = namespace(s='a') %}{% for i in range(90) %}{% set ns.s = ns.s + ns.s %}"
    "{% endfor %}",
    "{% set ns = namespace(a=[1]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}"
    "{% endfor %}{{ ns.a }}",
    "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}"
    "{% set ns.b = [ns.b, ns.b] %}{% endfor %}{{ ns.a == ns.b }}",
    "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    "{{ lipsum(n=10**7) }}",
    "{% for i in range(99999) %}{{ 'a' * 100 }}{% endfor %}",
    "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "{{ " + "-" * 20000 + "1 }}",
    "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
]
REFUSED = {
    "{{ 1 // 0 }}": "ZeroDivisionError",
    "{{ 10.0 ** 400 }}": "OverflowError",
    "{{ messages[0].content.index('z') }}": "ValueError",
    "{{ messages[0].content.split('x')[5].y }}": "no element 5",
    "{{ messages|length + 'x' }}": "TypeError",
    "{{ '%d' % 'x' }}": "TypeError",
    "{{ raise_exception('no system role') }}": "no system role",
    "{{ raise_exception(messages) }}": "hi",
    "{% if %}": "Expected an expression",
    "{% include '/etc/passwd' %}": "loader",
    "{{ foo.bar.baz }}": "'foo' is undefined",
    "{{ ''.__class__.__mro__ }}": "unsafe",
    "{{ messages.append(1) }}": "unsafe",
    "{{ cycler.__init__.__globals__ }}": "unsafe",
    "{{ strftime_now.__globals__.os }}": "unsafe",
    "{% set ns = namespace() %}{% set ns.__class__ = 1 %}": "namespace",
    "{% for a, b, c in messages %}{% endfor %}": "ValueError",
    "{{ messages|nope }}": "nope",
    "{{ '\ud800' }}": "not valid Unicode",
}


def test_a_template_without_an_end_is_ended():
    for template in WITHOUT_END:
        made = ChatTemplate(template, {}, LIMITS)
        with pytest.raises(ValueError, match=r"memory|end|nested|characters|ended with|Error"):
            raise AssertionError(f"{template[:60]}: {made.render(HI)[:60]!r}")
        made.close()


def test_whatever_a_template_raises_is_a_refusal_with_its_reason():
    for template, why in REFUSED.items():
        made = ChatTemplate(template, {}, LIMITS)
        with pytest.raises(ValueError, match=why):
            raise AssertionError(f"{template}: {made.render(HI)!r}")
        made.close()


@pytest.mark.parametrize("template", [5, None, {"a": 1}, [], ""])
def test_what_is_no_template_renders_nothing_or_is_refused(template):
    made = ChatTemplate(template, {}, LIMITS)
    try:
        assert made.render(HI) == ""
    except ValueError as error:
        assert "Error" in str(error)
    made.close()


@pytest.fixture
def picky() -> Iterator[ChatTemplate]:
    """Without an end for some messages only."""
    made = ChatTemplate("{{ messages[0].content * (10 ** messages|length) }}", {}, LIMITS)
    yield made
    made.close()


def test_the_next_messages_find_a_new_process(picky):
    assert picky.render(HI) == "hi" * 10
    with pytest.raises(ValueError, match="memory"):
        picky.render(HI * 12)
    assert picky.render(HI) == "hi" * 10


def test_a_process_that_was_killed_is_replaced(picky):
    picky.render(HI)
    first = picky._process
    first.kill()
    first.wait()
    assert picky.render(HI) == "hi" * 10
    assert picky._process is not first


def test_threads_take_turns(picky):
    texts = []
    say = lambda n: texts.append(picky.render([{"role": "user", "content": str(n)}]))  # noqa: E731
    threads = [threading.Thread(target=say, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(texts) == [str(n) * 10 for n in range(8)]


def test_the_process_gets_no_key_and_ends_with_its_owner(picky, monkeypatch):
    monkeypatch.setenv("KT_API_KEY", "secret")
    picky.render(HI)
    process = picky._process
    assert b"secret" not in Path(f"/proc/{process.pid}/environ").read_bytes()
    process.stdin.close()
    assert process.wait(10) == 0


def test_a_tokenizer_renders_by_its_template(tiny):
    path, _ = tiny("mixtral")
    tokenizer = Tokenizer(path)
    assert tokenizer.decode(tokenizer.render(HI)) == "user:hi;assistant:"
    tokenizer.close()


def test_a_tokenizer_gives_the_template_its_special_tokens(tiny):
    tokenizer = Tokenizer(tiny("mixtral")[0])
    tokenizer._tokenizer.chat_template = PARTS[0] + "{{ eos_token }}"
    ids = tokenizer.render(HI)
    assert (tokenizer.decode(ids), ids[-1]) == ("hi", tokenizer.eos)
    tokenizer.close()


def test_a_tokenizer_passes_on_what_stopped_the_template(tiny):
    tokenizer = Tokenizer(tiny("mixtral")[0])
    tokenizer._tokenizer.chat_template = "{{ 'a' * 10**11 }}"
    with pytest.raises(ValueError, match="memory"):
        tokenizer.render(HI)
    tokenizer.close()


@pytest.mark.parametrize("template", [None, {"rag": "x", "tools": "y"}])
def test_a_model_without_a_template_says_so(tiny, template):
    tokenizer = Tokenizer(tiny("mixtral")[0])
    tokenizer._tokenizer.chat_template = template
    with pytest.raises(ValueError, match=r"no chat template|no default"):
        tokenizer.render(HI)


def test_a_tokenizer_with_code_of_its_own_renders_by_that(tiny):
    tokenizer = Tokenizer(tiny("mixtral")[0])

    class Own(type(tokenizer._tokenizer)):
        def apply_chat_template(self, messages, **options):
            return messages[0]["content"] * 2 if options else 1 / 0

    tokenizer._tokenizer.__class__ = Own
    assert tokenizer.decode(tokenizer.render(HI)) == "hihi"
    with pytest.raises(ValueError, match="TypeError"):
        tokenizer.render([{"content": None}])
