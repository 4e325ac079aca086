"""Seeded generators of conversations with tools: a request to call, a result to tell, and neither of both.

Every sample has one right answer. A tool has more than one name and description, and a result more than one form, so
that the model reads them in the prompt: clients make them from a function's name, docstring and return value.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from trimode_tools.tasks.generators import TASKS
from trimode_tools.tasks.suite import held_out_of, is_held_out
from trimode_tools.tasks.tool_family import FAMILY, Arguments, Kind, Use

Message = Mapping[str, Any]


@dataclass(frozen=True)
class ToolSample:
    """A conversation that waits for the assistant, in OpenAI's form, and the text that goes on with it.

    `prompt` is what the user asked for last: it alone decides whether the sample is held out.
    """

    task: str
    prompt: str
    answer: str
    tools: tuple[Mapping[str, Any], ...]
    messages: tuple[Message, ...]


def function_tool(name: str, description: str, parameters: Mapping[str, str]) -> dict[str, Any]:
    """A tool in OpenAI's form; `parameters` by name, each with its JSON type, all required."""
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


@dataclass(frozen=True)
class _Offer:
    """Tools of one conversation: the one that is asked for, its name, and all that are shown."""

    kind: Kind
    name: str
    tools: tuple[Mapping[str, Any], ...]


def _offer(rng: Random, *, shown: bool = True) -> _Offer:
    """One to three tools; the one asked for is among them where `shown`."""
    kind = rng.choice(FAMILY)
    others = [each for each in FAMILY if each is not kind]
    kinds = rng.sample(others, rng.randint(0, 2) if shown else rng.randint(1, 3)) + [kind] * shown
    rng.shuffle(kinds)
    names = {each.names: rng.choice(each.names) for each in (*kinds, kind)}
    described = (lambda does: does, lambda does: f"{does.capitalize()}.", lambda does: "")
    describe = rng.choices(described, (0.45, 0.4, 0.15))[0]
    tools = tuple(function_tool(names[each.names], describe(each.does), each.parameters) for each in kinds)
    return _Offer(kind, names[kind.names], tools)


_BEFORE = ("", "", "", "please: ", "hello, ", "hi! ", "quick question: ")
_AFTER = ("", "", "?", " please", ", thanks")


def _request(rng: Random, uses: list[Use]) -> str:
    asked = " and ".join([uses[0].request, *(use.second for use in uses[1:])])
    return rng.choice(_BEFORE) + asked + rng.choice(_AFTER)


def _uses(rng: Random, kind: Kind) -> list[Use]:
    """One use, sometimes two that one request can ask for."""
    uses = [kind.use(rng)]
    if uses[0].second and rng.random() < 0.3:
        another = kind.use(rng)
        if another.arguments != uses[0].arguments:
            uses.append(another)
    return uses


def call_text(name: str, arguments: Mapping[str, Any]) -> str:
    """A call as the tiny model writes it."""
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


_RESULT_FORMS: tuple[Callable[[Arguments], str], ...] = (json.dumps, partial(json.dumps, separators=(",", ":")), str)
"""A result as json.dumps writes it, as Pydantic does, and as a client that calls `str` on it."""


def _loop(rng: Random, offer: _Offer) -> tuple[list[Message], str, str]:
    """A whole loop: the messages up to the results, the request in them, and the answer behind."""
    uses = _uses(rng, offer.kind)
    request = _request(rng, uses)
    messages: list[Message] = [{"role": "user", "content": request}]
    calls = [
        {"id": f"call_{index}", "type": "function", "function": {"name": offer.name, "arguments": use.arguments}}
        for index, use in enumerate(uses)
    ]
    messages.append({"role": "assistant", "content": "", "tool_calls": calls})
    write = rng.choices(_RESULT_FORMS, (0.6, 0.25, 0.15))[0]
    for index, use in enumerate(uses):
        messages.append({"role": "tool", "tool_call_id": f"call_{index}", "content": write(use.result)})
    return messages, request, " ".join(use.told for use in uses)


def _earlier(rng: Random, offer: _Offer) -> list[Message]:
    """What was said before: mostly nothing, else a loop that is over."""
    if rng.random() >= 0.04:
        return []
    messages, _, told = _loop(rng, offer)
    return [*messages, {"role": "assistant", "content": told}]


def tool_call(rng: Random) -> ToolSample:
    """A request that one of the tools answers, or that it answers by two calls."""
    offer = _offer(rng)
    before, uses = _earlier(rng, offer), _uses(rng, offer.kind)
    request = _request(rng, uses)
    answer = "\n".join(call_text(offer.name, use.arguments) for use in uses)
    return ToolSample("tool_call", request, answer, offer.tools, (*before, {"role": "user", "content": request}))


def tool_answer(rng: Random) -> ToolSample:
    """The results of calls, to be told in words."""
    offer = _offer(rng)
    before = _earlier(rng, offer)
    messages, request, told = _loop(rng, offer)
    return ToolSample("tool_answer", request, told, offer.tools, (*before, *messages))


_NO_TOOL = "None of my tools can do that."
_WITHOUT = tuple(sorted(set(TASKS) - {"add", "extract"}))
"""Tasks asked beside tools: those whose prompts no tool of the family could be meant by."""


def tool_idle(rng: Random) -> ToolSample:
    """Tools that are not needed."""
    offer, plain = _offer(rng), TASKS[rng.choice(_WITHOUT)](rng)
    return ToolSample(
        "tool_idle", plain.prompt, plain.answer, offer.tools, ({"role": "user", "content": plain.prompt},)
    )


def tool_absent(rng: Random) -> ToolSample:
    """A request that none of the tools is for."""
    offer = _offer(rng, shown=False)
    prompt = _request(rng, [offer.kind.use(rng)])
    return ToolSample("tool_absent", prompt, _NO_TOOL, offer.tools, ({"role": "user", "content": prompt},))


TOOL_TASKS: dict[str, Callable[[Random], ToolSample]] = {
    "tool_absent": tool_absent,
    "tool_answer": tool_answer,
    "tool_call": tool_call,
    "tool_idle": tool_idle,
}
_SHARES = (0.2, 0.25, 0.45, 0.1)


def tool_stream(rng: Random, *, held_out: bool) -> Iterator[ToolSample]:
    """Endless samples of one side of the split, calls most often."""
    names = sorted(TOOL_TASKS)
    while True:
        sample = TOOL_TASKS[rng.choices(names, _SHARES)[0]](rng)
        if is_held_out(sample.prompt) == held_out:
            yield sample


def held_out_tool_set(per_task: int, seed: int = 0) -> list[ToolSample]:
    """`per_task` held-out samples of every task with tools, of distinct requests, the same for the same seed."""
    return held_out_of(TOOL_TASKS, per_task, seed)
