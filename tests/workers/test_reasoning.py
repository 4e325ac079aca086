"""Reasoning in a field of its own, and what a chat template is told besides messages."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from trimode_workers.replica.replica import Replica
from trimode_workers.text.reasoning import ReasoningReader
from trimode_workers.text.template import ChatTemplate
from trimode_workers.text.tokenizer import TextModel

TEXTS = st.lists(st.sampled_from(["<think>", "</think>", "<thi", "nk>", "</", "a", "b c", " ", "\n", "<"]), max_size=12)


def split(text: str, begun: bool) -> tuple[str, str]:
    """The same by a regular expression over the whole text."""
    found = re.fullmatch(r"(\s*<think>)?(.*?)(?:</think>(.*))?", text, re.DOTALL)
    assert found is not None
    if not begun and found[1] is None:
        return "", text
    reasoning, _, rest = text.partition("</think>") if begun else (found[2], "", found[3] or "")
    return reasoning.strip(), rest.lstrip()


@given(TEXTS, st.booleans(), st.lists(st.integers(0, 100), max_size=8))
def test_it_is_told_apart_however_the_text_is_cut(parts: list[str], begun: bool, places: list[int]) -> None:
    text = "".join(parts)
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    reader = ReasoningReader(begun=begun)
    told = [reader.feed(text[a:b]) for a, b in pairwise(edges)]
    told.append(reader.finish())
    assert ("".join(t.reasoning for t in told), "".join(t.text for t in told)) == split(text, begun)


def model(folder: Path, template: str, *, special: bool) -> TextModel:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    marks = [AddedToken(mark, special=special, normalized=False) for mark in ("<think>", "</think>")]
    (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(marks)
    return TextModel(tokenizer, ChatTemplate(template, {}))


SWITCHED = (
    "{% for m in messages %}{{ m['content'] }}{% endfor %}|"
    "{% if enable_thinking %}<think>\n{% else %}<think>\n</think>\n\n{% endif %}"
)


@pytest.mark.parametrize("special", [True, False])
def test_the_prompt_says_whether_it_has_begun(special: bool, fake_model: Path) -> None:
    text = model(fake_model, SWITCHED, special=special)
    messages = [{"role": "user", "content": "hi"}]
    assert text.reasons
    assert text.reasoning(text.chat(messages)) is None
    reader = text.reasoning(text.chat(messages, (), {"enable_thinking": True}))
    assert reader is not None
    close = text.encode("</think>")
    shown = text.detokenizer(reasoning=True).feed([*text.spell("hm"), *close, *text.spell("ok")])
    assert reader.feed(shown) == ("hm", "ok")
    # Typed by a client they are text, and say nothing.
    typed = text.reasoning(text.chat([{"role": "user", "content": "<think>"}], (), {"enable_thinking": True}))
    assert typed is not None
    assert not model(fake_model, "{{ messages }}", special=special).reasons


class TestHttp:
    """The double says the prompt again and again."""

    @pytest.fixture
    def fake_model(self, fake_model: Path) -> Path:
        template = (
            "{% for m in messages %}{{ m['content'] }}{% endfor %}"
            "{% if enable_thinking %}{{ level }}<think>{% endif %}{# </think> #}"
        )
        (fake_model / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
        return fake_model

    async def ask(self, replica: Replica, words: str, **more: Any) -> Any:
        async with openai.AsyncOpenAI(base_url=f"{replica.url}/v1", api_key="fleet-secret", max_retries=0) as api:
            body = {"max_tokens": len(words.encode())} | more
            return await api.chat.completions.create(
                model="echo", messages=[{"role": "user", "content": words}], extra_body=body
            )

    @pytest.mark.parametrize("mode", ["AR", "SelfSpeculation"])
    async def test_whole_and_streamed(self, replica: Replica, http: aiohttp.ClientSession, mode: str) -> None:
        words = "<think>\nso h\u00e9 </think>\n\nyes"
        answer = await self.ask(replica, words, trimode={"mode": mode})
        message = answer.choices[0].message
        assert (message.content, message.reasoning_content, message.reasoning) == ("yes", "so h\u00e9", "so h\u00e9")
        request = {
            "model": "echo",
            "messages": [{"role": "user", "content": words}],
            "max_tokens": len(words.encode()),
            "trimode": {"mode": mode},
            "stream": True,
        }
        async with http.post("/v1/chat/completions", json=request) as response:
            chunks = [json.loads(part[6:]) for part in (await response.text()).split("\n\n")[:-2]]
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert "".join(d.get("content") or "" for d in deltas) == "yes"
        assert "".join(d.get("reasoning_content", "") for d in deltas) == "so h\u00e9"

    async def test_switches(self, replica: Replica) -> None:
        words = "<think>a</think>b"
        together = await self.ask(replica, words, separate_reasoning=False)
        assert together.choices[0].message.content == words
        without = await self.ask(replica, words, include_reasoning=False)
        assert without.choices[0].message.content == "b"
        assert not hasattr(without.choices[0].message, "reasoning_content")
        plain = await self.ask(replica, "hello")
        assert plain.choices[0].message.content == "hello"
        begun = await self.ask(
            replica, "hi", max_tokens=4, chat_template_kwargs={"enable_thinking": True, "level": "lo"}
        )
        assert begun.usage.prompt_tokens == len("hilo<think>")
        assert (begun.choices[0].message.content, begun.choices[0].message.reasoning) == ("", "hilo")

    @pytest.mark.parametrize(
        ("more", "param", "words"),
        [
            ({"chat_template_kwargs": {"no_such": 1}}, "chat_template_kwargs", "knows no 'no_such'"),
            ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs", "messages is not among"),
            ({"chat_template_kwargs": [1]}, "chat_template_kwargs", "an object"),
            ({"reasoning_effort": "high"}, "reasoning_effort", "knows no 'reasoning_effort'"),
        ],
    )
    async def test_what_the_template_does_not_know_is_refused(
        self, replica: Replica, more: Any, param: str, words: str
    ) -> None:
        with pytest.raises(openai.BadRequestError) as caught:
            await self.ask(replica, "hi", **more)
        assert caught.value.param == param
        assert words in caught.value.message

    async def test_switches_that_are_off_change_nothing(self, replica: Replica) -> None:
        off: dict[str, Any] = {"chat_template_kwargs": {"thinking": False, "other": None}, "reasoning_effort": "none"}
        answer = await self.ask(replica, "hi", **off)
        assert answer.choices[0].message.content == "hi"
