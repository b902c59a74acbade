"""A chat template cannot take all memory or time; one as models have them is rendered as transformers renders it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from llm_moments.base.errors import ModelError
from llm_moments.steps.prompt import Dialogue
from tests.fakes import byte_level

BOMBS = [
    "{{ 'a' * 300000000 }}", "{{ 300000000 * 'a' }}", "{{ [1] * 300000000 }}", "{{ 'a'.center(300000000) }}", "{{ 'a'|center(300000000) }}",
    "{{ '%300000000d' % 1 }}", "{{ '%300000000d'|format(1) }}", "{{ '{:300000000}'.format(1) }}", "{{ 9 ** 99999999 }}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "{% set x = range(99999) %}{% for a in x %}{% for b in x %}{% endfor %}{% endfor %}",
    "{% set n = namespace(s='aaaaaaaaaa') %}{% for a in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "{% set n = namespace(s='aaaaaaaaaa') %}{% for a in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "{% set n = namespace(s='a') %}{% for a in range(60) %}{% set n.s = n.s.replace('a', 'aaaa') %}{% endfor %}",
    "{% set n = namespace(s='a') %}{% for a in range(60) %}{% set n.s = n.s|replace('a', 'aaaa') %}{% endfor %}",
    "{% set n = namespace(s='a') %}{% for a in range(60) %}{% set t %}{{ n.s }}{{ n.s }}{% endset %}{% set n.s = t %}{% endfor %}",
    "{{ messages|tojson(indent=300000000) }}", "{{ ('a' * 9000000).join(['b'] * 9000) }}",
]  # fmt: skip
USUAL = (
    "{% for m in messages %}{% if loop.first and m.role == 'system' %}{{ '<<' ~ m['content']|trim ~ '>>' }}{% else %}"
    "{{ '<|' + m.role + '|>' + m.content.strip() + ' ' * 3 }}{% endif %}{% endfor %}{% set x = namespace(n=0) %}"
    "{% for m in messages if m.role == 'user' %}{% set x.n = x.n + loop.index * 2 %}{% endfor %}{{ x.n }}"
    "{{ messages|map(attribute='role')|join(',') }}{{ messages[0]|tojson(indent=2) }}{{ '%s-%d' % ('a', 3) }}"
    "{% macro show(t) %}[{{ t|upper }}]{% endmacro %}{{ show('end') }}{% if add_generation_prompt %}go{% endif %}"
)


def dialogue(template: str) -> Any:
    tokenizer = byte_level()
    tokenizer.chat_template = template
    return Dialogue(tokenizer)


@pytest.mark.parametrize("template", BOMBS)
def test_a_bomb_is_refused_at_once(template: str) -> None:
    start = time.process_time()
    with pytest.raises(ModelError, match="chat template"):
        dialogue(template).render((("user", "hello"),))
    assert time.process_time() - start < 20


def test_usual_templates_are_rendered_as_by_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.utils.chat_template_utils as utils
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    turns = (("system", " be short "), ("user", "hello {{ you }}"), ("assistant", "yes"), ("user", "why?"))
    found = dialogue(USUAL).render(turns)
    monkeypatch.setattr(utils, "ImmutableSandboxedEnvironment", ImmutableSandboxedEnvironment)
    told = [{"role": role, "content": content} for role, content in turns]
    assert found == dialogue(USUAL + " ").tokenizer.apply_chat_template(
        told, tokenize=False, add_generation_prompt=True
    ).rstrip(" ")
