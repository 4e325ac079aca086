"""Seeded generators of conversations with tools: a request to call, a result to tell, and neither of both.

The tools are a fixed family: weather, time, people, prices, trains, sums, reminders. Every sample has one right answer.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from trimode_tools.tasks.generators import TASKS
from trimode_tools.tasks.suite import held_out_of, is_held_out
from trimode_tools.tasks.words import CITIES, COLOURS, JOBS, NAMES, THINGS, TOPICS

Message = Mapping[str, Any]
Arguments = dict[str, str | int]


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


@dataclass(frozen=True)
class _Use:
    """One use of a tool: the request in words, the arguments, what the tool returns, and the sentence that tells it.

    `second`: how a further use of the same tool is asked for in the same request; empty where it cannot be.
    """

    request: str
    arguments: Arguments
    result: Arguments
    told: str
    second: str = ""


@dataclass(frozen=True)
class _Kind:
    """A tool of the family: what it does, its parameters' JSON types, and its uses."""

    name: str
    does: str
    parameters: Mapping[str, str]
    use: Callable[[Random], _Use]


_SKY = ("clear", "cloudy", "foggy", "rainy", "snowy", "sunny", "windy")


def _weather(rng: Random) -> _Use:
    city, degrees, sky = rng.choice(CITIES), rng.randint(1, 39), rng.choice(_SKY)
    asked = rng.choice(("what is the weather in", "how is the weather in", "tell me the weather in"))
    told = f"It is {sky} in {city}, {degrees} degrees."
    return _Use(f"{asked} {city}", {"city": city}, {"sky": sky, "degrees": degrees}, told, city)


def _time(rng: Random) -> _Use:
    city, hour, minute = rng.choice(CITIES), rng.randint(1, 23), rng.randint(10, 59)
    asked = rng.choice(("what time is it in", "which time is it in", "tell me the time in"))
    told = f"It is {hour}:{minute} in {city}."
    return _Use(f"{asked} {city}", {"city": city}, {"hour": hour, "minute": minute}, told, city)


def _person(rng: Random) -> _Use:
    name, job, city = rng.choice(NAMES), rng.choice(JOBS), rng.choice(CITIES)
    asked = rng.choice(("who is", "what do you know about", "look up"))
    told = f"{name} is a {job} from {city}."
    return _Use(f"{asked} {name}", {"name": name}, {"job": job, "city": city}, told, name)


def _price(rng: Random) -> _Use:
    item, colour, price = rng.choice(THINGS), rng.choice(COLOURS), rng.randint(1, 99)
    asked = rng.choice(("what does a {} {} cost", "how much is a {} {}", "find the price of a {} {}"))
    arguments: Arguments = {"item": item, "colour": colour}
    return _Use(asked.format(colour, item), arguments, {"price": price}, f"A {colour} {item} costs {price}.")


def _train(rng: Random) -> _Use:
    start, end = rng.sample(CITIES, 2)
    hour = rng.randint(1, 23)
    asked = rng.choice(("when is the train from {} to {}", "find a train from {} to {}", "take me from {} to {}"))
    told = f"The train from {start} to {end} leaves at {hour}."
    return _Use(asked.format(start, end), {"start": start, "end": end}, {"hour": hour}, told)


def _sum(rng: Random) -> _Use:
    a, b = rng.randint(1, 999), rng.randint(1, 999)
    asked = rng.choice(("what is {} plus {}", "how much is {} plus {}", "give me the sum of {} and {}"))
    return _Use(asked.format(a, b), {"a": a, "b": b}, {"sum": a + b}, f"{a} plus {b} is {a + b}.")


def _reminder(rng: Random) -> _Use:
    about, hour = rng.choice(TOPICS), rng.randint(1, 23)
    asked = rng.choice(("remind me of {} at {}", "set a reminder for {} at {}"))
    told = f"I will remind you of {about} at {hour}."
    return _Use(asked.format(about, hour), {"about": about, "hour": hour}, {"done": "yes"}, told)


_FAMILY = (
    _Kind("weather", "the weather in a city", {"city": "string"}, _weather),
    _Kind("time", "the time in a city", {"city": "string"}, _time),
    _Kind("person", "who somebody is", {"name": "string"}, _person),
    _Kind("price", "what a thing costs", {"item": "string", "colour": "string"}, _price),
    _Kind("train", "the next train", {"start": "string", "end": "string"}, _train),
    _Kind("add", "the sum of two numbers", {"a": "integer", "b": "integer"}, _sum),
    _Kind("remind", "remind the user", {"about": "string", "hour": "integer"}, _reminder),
)


def function_tool(name: str, description: str, parameters: Mapping[str, str]) -> dict[str, Any]:
    """A tool in OpenAI's form; `parameters` by name, each with its JSON type, all required."""
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


@dataclass(frozen=True)
class _Offer:
    """Tools of one conversation: the one that is asked for, and all that are shown."""

    kind: _Kind
    tools: tuple[Mapping[str, Any], ...]


def _offer(rng: Random, *, shown: bool = True) -> _Offer:
    """One to three tools; the one asked for is among them where `shown`."""
    kind = rng.choice(_FAMILY)
    others = [each for each in _FAMILY if each is not kind]
    kinds = rng.sample(others, rng.randint(0, 2) if shown else rng.randint(1, 3)) + [kind] * shown
    rng.shuffle(kinds)
    return _Offer(kind, tuple(function_tool(each.name, each.does, each.parameters) for each in kinds))


_BEFORE = ("", "", "", "please: ", "hello, ", "hi! ", "quick question: ")
_AFTER = ("", "", "?", " please", ", thanks")


def _request(rng: Random, uses: list[_Use]) -> str:
    asked = " and ".join([uses[0].request, *(use.second for use in uses[1:])])
    return rng.choice(_BEFORE) + asked + rng.choice(_AFTER)


def _uses(rng: Random, kind: _Kind) -> list[_Use]:
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


def _calls(name: str, uses: list[_Use]) -> list[dict[str, Any]]:
    return [
        {"id": f"call_{index}", "type": "function", "function": {"name": name, "arguments": use.arguments}}
        for index, use in enumerate(uses)
    ]


def _loop(rng: Random, offer: _Offer) -> tuple[list[Message], str, str]:
    """A whole loop: the messages up to the results, the request in them, and the answer behind."""
    uses = _uses(rng, offer.kind)
    request = _request(rng, uses)
    messages: list[Message] = [{"role": "user", "content": request}]
    messages.append({"role": "assistant", "content": "", "tool_calls": _calls(offer.kind.name, uses)})
    for index, use in enumerate(uses):
        messages.append({"role": "tool", "tool_call_id": f"call_{index}", "content": json.dumps(use.result)})
    return messages, request, " ".join(use.told for use in uses)


def _earlier(rng: Random, offer: _Offer) -> list[Message]:
    """What was said before: mostly nothing, else a loop that is over."""
    if rng.random() >= 0.06:
        return []
    messages, _, told = _loop(rng, offer)
    return [*messages, {"role": "assistant", "content": told}]


def tool_call(rng: Random) -> ToolSample:
    """A request that one of the tools answers, or that it answers by two calls."""
    offer = _offer(rng)
    before, uses = _earlier(rng, offer), _uses(rng, offer.kind)
    request = _request(rng, uses)
    answer = "\n".join(call_text(offer.kind.name, use.arguments) for use in uses)
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
_SHARES = (0.08, 0.3, 0.5, 0.12)


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
