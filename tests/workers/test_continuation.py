"""Going on with an answer that another replica began: by hand, and with the packaged model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trimode_workers
from trimode_api.errors import ApiError
from trimode_api.wire import CONTINUE_PATH, PolicyConfig
from trimode_workers.engine.messages import Finish, Submit, TokenEvent
from trimode_workers.openai.continuation import ResumePoint, parse_continuation, resumed_from, seed_of
from trimode_workers.openai.render import Kind, Outcome
from trimode_workers.replica.generation import Before, Generation
from trimode_workers.replica.replica import Replica
from trimode_workers.replica.settings import EngineOptions, ReplicaSettings
from trimode_workers.text.answer import AnswerText
from trimode_workers.text.detokenize import ByteDetokenizer

TINY = Path(trimode_workers.__path__[0], "tiny")
TOKEN = "fleet-secret"
BYTES = [bytes([value]) for value in range(256)]
PROMPT = [1, 2, 3]


class Engine:
    """An engine that says what the test says."""

    lost = ""

    def __init__(self) -> None:
        self.submitted: Submit | None = None
        self.cancelled = False

    def submit(self, request: Submit, on_event: Callable[[TokenEvent], None]) -> None:
        self.submitted, self._on_event = request, on_event

    def cancel(self, request_id: str) -> None:
        self.cancelled = True

    def say(self, answer: list[int], cycle: int) -> None:
        """`answer` in cycles of so many tokens, and its end, as far as it is wanted."""
        for start in range(0, len(answer), cycle):
            if self.cancelled:
                self._on_event(TokenEvent("r", [], Finish.CANCELLED))
                return
            self._on_event(TokenEvent("r", answer[start : start + cycle]))
        self._on_event(TokenEvent("r", [], Finish.CANCELLED if self.cancelled else Finish.STOP))


def run(
    answer: list[int], stops: list[str], cycle: int, emitted: list[int]
) -> tuple[list[tuple[str, list[int]]], Outcome]:
    """What a client is shown of `answer`, of which it has `emitted`; and the outcome."""
    engine: Any = Engine()
    text = AnswerText(ByteDetokenizer(BYTES), stops)
    submit = resumed_from(Submit("r", PROMPT, len(answer) + 1), emitted)
    generation = Generation(engine, submit, text, Before(emitted))
    shown: list[tuple[str, list[int]]] = []
    generation.listen(lambda delta, ids, scored: shown.append((delta.text, list(ids))))
    generation.start()
    if engine.submitted is not None:
        assert engine.submitted.tokens == [*PROMPT, *emitted]
        engine.say(answer[len(emitted) :], cycle)
    return shown, generation.done.result()


def joined(shown: list[tuple[str, list[int]]], outcome: Outcome) -> str:
    return "".join(text for text, _ in shown) + outcome.rest.text


TEXTS = st.text(st.sampled_from("aab<é日\U0001f600"), min_size=1, max_size=30)


@given(TEXTS, st.lists(st.text(st.sampled_from("ab<é"), min_size=1, max_size=4), max_size=2), st.data())
async def test_wherever_it_breaks_text_and_usage_are_those_of_an_unbroken_answer(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    """A token is a byte here: breaks fall within characters and within stop strings."""
    answer = list(text.encode())
    cycle = data.draw(st.integers(1, 5))
    whole, outcome = run(answer, stops, cycle, [])
    kept = data.draw(st.integers(0, len(whole)))
    client = whole[:kept]
    emitted = [token for _, ids in client for token in ids]
    rest, after = run(answer, stops, data.draw(st.integers(1, 5)), emitted)
    assert joined(client + rest, after) == joined(whole, outcome)
    assert (after.finish_reason, after.prompt_tokens, after.completion_tokens) == (
        outcome.finish_reason,
        outcome.prompt_tokens,
        outcome.completion_tokens,
    )
    assert after.resumed_after == len(emitted)


async def test_an_answer_at_its_limit_only_needs_its_end() -> None:
    engine: Any = Engine()
    emitted = list(b"abc")
    submit = resumed_from(Submit("r", PROMPT, 3), emitted)
    generation = Generation(engine, submit, AnswerText(ByteDetokenizer(BYTES)), Before(emitted))
    generation.start()
    said, _, outcome = await generation.whole()
    assert (said.text, outcome.finish_reason, outcome.completion_tokens) == ("", "length", 3)
    assert engine.submitted is None


async def test_an_answer_whose_stop_token_was_shown_only_needs_its_end() -> None:
    engine: Any = Engine()
    emitted = list(b"abc")
    submit = msgspec.structs.replace(Submit("r", PROMPT, 9), stop_ids=tuple(b"c"), keep_stop=True)
    generation = Generation(
        engine, resumed_from(submit, emitted), AnswerText(ByteDetokenizer(BYTES), ["cd"]), Before(emitted)
    )
    generation.start()
    said, _, outcome = await generation.whole()
    # The beginning of a stop string was kept back from the client, and is told now.
    assert (said.text, outcome.finish_reason, outcome.completion_tokens) == ("c", "stop", 3)
    assert engine.submitted is None


REQUEST = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True}
GOOD = {"path": "/v1/chat/completions", "id": "chatcmpl-1", "created": 5, "emitted": [1, 2], "request": REQUEST}


def test_the_routers_words() -> None:
    request, head, pasts = parse_continuation(json.dumps(GOOD).encode())
    assert (head.kind, head.id, head.created, pasts) == (Kind.CHAT, "chatcmpl-1", 5, [ResumePoint([1, 2])])
    assert request.stream
    text = GOOD | {"path": "/v1/completions", "request": {"model": "m", "prompt": "x", "stream": True}}
    assert parse_continuation(json.dumps(text).encode())[1].kind is Kind.TEXT


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"emitted": [-1]}, "emitted"),
        ({"emitted": ["a"]}, "emitted"),
        ({"id": 7}, "id"),
        ({"request": REQUEST | {"stream": False}}, "only a stream"),
        ({"request": REQUEST | {"n": 2}}, "wants 2, got 1"),
        ({"choices": [{"emitted": [1]}, {"emitted": []}]}, "wants 1, got 2"),
        ({"request": REQUEST | {"n": 2}, "choices": [{"ended": "stop"}, {"ended": "stop"}]}, "all have ended"),
        ({"request": REQUEST | {"top_p": 7}}, "top_p"),
        ({"request": 5}, "object"),
    ],
)
def test_bad_words(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ApiError, match=words) as error:
        parse_continuation(json.dumps(GOOD | changes).encode())
    assert error.value.status == 400


def test_the_routers_words_for_several_choices() -> None:
    choices = [{"emitted": [1, 2]}, {"emitted": [3], "ended": "stop", "tokens": 4}, {"emitted": []}]
    body = GOOD | {"emitted": [], "choices": choices, "request": REQUEST | {"n": 3}}
    _, _, pasts = parse_continuation(json.dumps(body).encode())
    assert pasts == [ResumePoint([1, 2]), ResumePoint([3], "stop", 4), ResumePoint()]
    assert [past.begun for past in pasts] == [True, True, False]


def test_seeds_follow_from_the_answers_id() -> None:
    assert seed_of("chatcmpl-1") == seed_of("chatcmpl-1") != seed_of("chatcmpl-2")
    assert 0 <= seed_of("x") < 2**63


# With the packaged model.


@pytest.fixture
async def tiny(policy: PolicyConfig) -> AsyncIterator[aiohttp.ClientSession]:
    if not (TINY / "model.safetensors").is_file():
        pytest.skip(f"NO PACKAGED MODEL in {TINY}")
    options = EngineOptions(model=str(TINY), max_context_tokens=512, max_running_requests=8, threads=1)
    settings = ReplicaSettings(pool="flex", served_name="tiny", engine=options, policy=policy)
    replica = await Replica.start(settings, TOKEN)
    async with aiohttp.ClientSession(replica.url, headers={"Authorization": f"Bearer {TOKEN}"}) as session:
        yield session
    await replica.stop()


async def events_of(http: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    async with http.post(path, json=body) as response:
        assert response.status == 200, await response.text()
        lines = (await response.text()).splitlines()
    assert lines[-2] == "data: [DONE]"
    return [json.loads(line[6:]) for line in lines if line and line != "data: [DONE]"]


def counts(answer: dict[str, Any]) -> dict[str, int]:
    """Its tokens; how many of them a replica knew before is no part of the answer."""
    return {name: count for name, count in answer["usage"].items() if name != "prompt_tokens_details"}


def text_of(events: list[dict[str, Any]]) -> str:
    return "".join(event["choices"][0]["delta"].get("content", "") for event in events if event["choices"])


POINTS = [{"mode": "AR"}, {"mode": "SelfSpeculation", "blockLength": 8}, {"mode": "Diffusion"}]


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 1.0, "seed": 7}, {"temperature": 1.0}])
async def test_the_rest_is_that_of_the_unbroken_answer(tiny: aiohttp.ClientSession, sampling: dict[str, Any]) -> None:
    """In every mode, greedy and drawn, with the client's seed and with none."""
    for point in POINTS:
        request = {
            "model": "tiny",
            "messages": [{"role": "user", "content": "sort: 42 17 88 12 55"}],
            "stream": True,
            "max_tokens": 60,
            "ignore_eos": True,
            "trimode": point,
            **sampling,
        }
        whole = await events_of(tiny, "/v1/chat/completions", request)
        chunks = [event for event in whole if "ids" in event.get("trimode", {})]
        cuts = {1, max(1, len(chunks) // 2), len(chunks)}
        for cut in cuts:
            emitted = [token for event in chunks[:cut] for token in event["trimode"]["ids"]]
            body = {
                "path": "/v1/chat/completions",
                "id": whole[0]["id"],
                "created": whole[0]["created"],
                "emitted": emitted,
                "request": request,
            }
            rest = await events_of(tiny, CONTINUE_PATH, body)
            assert text_of(chunks[:cut]) + text_of(rest) == text_of(whole), (point, cut)
            assert counts(rest[-1]) == counts(whole[-1])
            assert rest[-1]["trimode"]["resumedAfter"] == len(emitted)
            assert {event["id"] for event in rest} == {whole[0]["id"]}
            assert not any("role" in event["choices"][0]["delta"] for event in rest)


@pytest.mark.slow
async def test_a_continuation_needs_the_fleets_token(tiny: aiohttp.ClientSession) -> None:
    async with tiny.post(CONTINUE_PATH, json=GOOD, headers={"Authorization": "Bearer guess"}) as response:
        assert response.status == 401
    async with tiny.post(CONTINUE_PATH, json=GOOD) as response:
        assert response.status == 404  # another model's
        assert "'m'" in (await response.json())["error"]["message"]
