"""The tools that the tiny model learns to call: weather, time, people, prices, trains, sums, reminders. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from trimode_tools.tasks.words import CITIES, COLOURS, JOBS, NAMES, THINGS, TOPICS

Arguments = dict[str, str | int]


@dataclass(frozen=True)
class Use:
    """One use of a tool: the request in words, the arguments, what the tool returns, and the sentence that tells it.

    `second`: how a further use of the same tool is asked for in the same request; empty where it cannot be.
    """

    request: str
    arguments: Arguments
    result: Arguments
    told: str
    second: str = ""


Uses = Callable[[Random], Use]


@dataclass(frozen=True)
class Kind:
    """A tool of the family: the names it goes by, what it does, its parameters' JSON types, and its uses."""

    names: tuple[str, ...]
    does: str
    parameters: Mapping[str, str]
    use: Uses


FAMILY: list[Kind] = []
"""In their order below, which what a seed gives depends on."""


def _tool(names: tuple[str, ...], does: str, parameters: Mapping[str, str]) -> Callable[[Uses], Uses]:
    """Puts what a function makes uses of into the family."""

    def add(use: Uses) -> Uses:
        FAMILY.append(Kind(names, does, parameters, use))
        return use

    return add


_SKY = ("clear", "cloudy", "foggy", "rainy", "snowy", "sunny", "windy")


@_tool(("weather", "get_weather"), "the weather in a city", {"city": "string"})
def _weather(rng: Random) -> Use:
    city, degrees, sky = rng.choice(CITIES), rng.randint(1, 39), rng.choice(_SKY)
    asked = rng.choice(("what is the weather in", "how is the weather in", "tell me the weather in"))
    told = f"It is {sky} in {city}, {degrees} degrees."
    return Use(f"{asked} {city}", {"city": city}, {"sky": sky, "degrees": degrees}, told, city)


@_tool(("time", "get_time"), "the time in a city", {"city": "string"})
def _time(rng: Random) -> Use:
    city, hour, minute = rng.choice(CITIES), rng.randint(1, 23), rng.randint(10, 59)
    asked = rng.choice(("what time is it in", "which time is it in", "tell me the time in"))
    told = f"It is {hour}:{minute} in {city}."
    return Use(f"{asked} {city}", {"city": city}, {"hour": hour, "minute": minute}, told, city)


@_tool(("person", "find_person"), "who somebody is", {"name": "string"})
def _person(rng: Random) -> Use:
    name, job, city = rng.choice(NAMES), rng.choice(JOBS), rng.choice(CITIES)
    asked = rng.choice(("who is", "what do you know about", "look up"))
    told = f"{name} is a {job} from {city}."
    return Use(f"{asked} {name}", {"name": name}, {"job": job, "city": city}, told, name)


@_tool(("price", "get_price"), "what a thing costs", {"item": "string", "colour": "string"})
def _price(rng: Random) -> Use:
    item, colour, price = rng.choice(THINGS), rng.choice(COLOURS), rng.randint(1, 99)
    asked = rng.choice(("what does a {} {} cost", "how much is a {} {}", "find the price of a {} {}"))
    arguments: Arguments = {"item": item, "colour": colour}
    return Use(asked.format(colour, item), arguments, {"price": price}, f"A {colour} {item} costs {price}.")


@_tool(("train", "find_train"), "the next train", {"start": "string", "end": "string"})
def _train(rng: Random) -> Use:
    start, end = rng.sample(CITIES, 2)
    hour = rng.randint(1, 23)
    asked = rng.choice(("when is the train from {} to {}", "find a train from {} to {}", "take me from {} to {}"))
    told = f"The train from {start} to {end} leaves at {hour}."
    return Use(asked.format(start, end), {"start": start, "end": end}, {"hour": hour}, told)


@_tool(("add", "add_numbers"), "the sum of two numbers", {"a": "integer", "b": "integer"})
def _sum(rng: Random) -> Use:
    a, b = rng.randint(1, 999), rng.randint(1, 999)
    asked = rng.choice(("what is {} plus {}", "how much is {} plus {}", "give me the sum of {} and {}"))
    return Use(asked.format(a, b), {"a": a, "b": b}, {"sum": a + b}, f"{a} plus {b} is {a + b}.")


@_tool(("remind", "set_reminder"), "remind the user", {"about": "string", "hour": "integer"})
def _reminder(rng: Random) -> Use:
    about, hour = rng.choice(TOPICS), rng.randint(1, 23)
    asked = rng.choice(("remind me of {} at {}", "set a reminder for {} at {}"))
    told = f"I will remind you of {about} at {hour}."
    return Use(asked.format(about, hour), {"about": about, "hour": hour}, {"done": "yes"}, told)
