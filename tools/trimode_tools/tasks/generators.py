"""Seeded generators of short text tasks, each with its only right answer: records, lists, letters, sums, questions."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Protocol

from trimode_tools.tasks.words import CITIES, COLOURS, JOBS, MONTHS, MOODS, NAMES, PLAIN, THINGS, TOPICS


@dataclass(frozen=True)
class Sample:
    """A prompt and the text that answers it; `task` names the generator."""

    task: str
    prompt: str
    answer: str


class Answered(Protocol):
    """Any sample: it has one right answer."""

    @property
    def answer(self) -> str: ...


def check(sample: Answered, text: str) -> bool:
    """Exact match, forgiving only white space around the answer."""
    return text.strip() == sample.answer.strip()


Value = str | int
Record = dict[str, Value]

_COLUMNS: dict[str, tuple[str, ...] | None] = {
    "city": CITIES,
    "colour": COLOURS,
    "job": JOBS,
    "mood": MOODS,
    "item": THINGS,
    "age": None,  # None: a number
    "count": None,
    "price": None,
}


def _record(rng: Random, columns: list[str]) -> Record:
    return {c: rng.randint(1, 99) if (words := _COLUMNS[c]) is None else rng.choice(words) for c in columns}


def _columns(rng: Random, low: int, high: int) -> list[str]:
    return rng.sample(sorted(_COLUMNS), rng.randint(low, high))


def _pairs(record: Record) -> str:
    return " ".join(f"{key}={value}" for key, value in record.items())


def _csv(records: list[Record]) -> str:
    rows = [",".join(str(value) for value in record.values()) for record in records]
    return "\n".join([",".join(records[0]), *rows])


def pairs_to_json(rng: Random) -> Sample:
    record = _record(rng, _columns(rng, 2, 5))
    return Sample("pairs_to_json", f"write as json: {_pairs(record)}", json.dumps(record))


def json_to_pairs(rng: Random) -> Sample:
    record = _record(rng, _columns(rng, 2, 5))
    return Sample("json_to_pairs", f"write as pairs: {json.dumps(record)}", _pairs(record))


def csv_to_json(rng: Random) -> Sample:
    columns = _columns(rng, 2, 3)
    records = [_record(rng, columns) for _ in range(rng.randint(1, 3))]
    return Sample("csv_to_json", f"write as json:\n{_csv(records)}", json.dumps(records))


def json_to_csv(rng: Random) -> Sample:
    columns = _columns(rng, 2, 3)
    records = [_record(rng, columns) for _ in range(rng.randint(1, 2))]
    return Sample("json_to_csv", f"write as csv: {json.dumps(records)}", _csv(records))


def pairs_to_csv(rng: Random) -> Sample:
    columns = _columns(rng, 2, 4)
    records = [_record(rng, columns) for _ in range(rng.randint(1, 2))]
    lines = "\n".join(_pairs(record) for record in records)
    return Sample("pairs_to_csv", f"write as csv:\n{lines}", _csv(records))


_COUNTS = {2: "two", 3: "three", 4: "four", 5: "five"}


def repeat(rng: Random) -> Sample:
    phrase = " ".join(rng.sample(PLAIN, rng.randint(1, 3)))
    times = rng.randint(2, 5)
    return Sample("repeat", f"repeat {_COUNTS[times]} times: {phrase}", "\n".join([phrase] * times))


def reverse(rng: Random) -> Sample:
    words = rng.sample(PLAIN, rng.randint(2, 5))
    return Sample("reverse", f"reverse the order: {' '.join(words)}", " ".join(reversed(words)))


def sort_numbers(rng: Random) -> Sample:
    numbers = rng.sample(range(10, 100), rng.randint(3, 5))
    listed = " ".join(str(n) for n in numbers)
    return Sample("sort_numbers", f"sort: {listed}", " ".join(str(n) for n in sorted(numbers)))


def extract(rng: Random) -> Sample:
    """A sentence with five facts, and a question for one of them."""
    name = rng.choice(NAMES)
    facts = {
        "city": rng.choice(CITIES),
        "job": rng.choice(JOBS),
        "colour": rng.choice(COLOURS),
        "thing": rng.choice(THINGS),
    }
    asked = rng.choice([*sorted(facts), "name"])
    told = "{name} is a {job} from {city} who bought a {colour} {thing}".format(name=name, **facts)
    answer = name if asked == "name" else facts[asked]
    return Sample("extract", f"find the {asked}: {told}", f"The {asked} is {answer}.")


_ANSWERS = (
    (
        ("what is trimode?", "tell me about trimode", "explain trimode"),
        "Trimode serves one language model in three modes. It picks the fastest mode for the load of the moment, "
        "so that one user gets quick answers and many users share the machine well.",
    ),
    (
        ("which modes are there?", "list the modes", "name the three modes"),
        "There are three modes: autoregressive decoding, self-speculation and block diffusion. "
        "All three use the same weights and the same cache.",
    ),
    (
        ("what is self-speculation?", "explain self-speculation", "how does self-speculation work?"),
        "In self-speculation the model drafts a whole block at once and then checks it in one pass. "
        "It keeps the part that is right, so the answer stays the same and comes sooner.",
    ),
    (
        ("what is block diffusion?", "explain diffusion", "how does diffusion work?"),
        "In block diffusion the model starts from a block of masks and fills in the tokens it is sure of, "
        "step by step, until no mask is left.",
    ),
    (
        ("what is autoregressive decoding?", "explain the ar mode", "how does autoregressive decoding work?"),
        "In autoregressive decoding the model writes one token after another. "
        "It does the least work for each token, so it is best when many users share the machine.",
    ),
    (
        ("who are you?", "what are you?", "introduce yourself"),
        "I am the tiny model of trimode. I was trained on small text tasks only, "
        "so please do not expect me to know the world.",
    ),
    (
        ("what can you do?", "help", "which tasks do you know?"),
        "I can write records as json, csv or pairs, write letters, find facts, repeat and reverse words, "
        "sort numbers and add them step by step.",
    ),
)  # fmt: skip
_BEFORE = ("", "please: ", "hello, ", "quick question: ", "one thing: ", "hi! ", "dear model, ", "now ")
_AFTER = ("", " thanks", " please", " thank you", " (short)", " be brief")


def about(rng: Random) -> Sample:
    questions, answer = rng.choice(_ANSWERS)
    return Sample("about", rng.choice(_BEFORE) + rng.choice(questions) + rng.choice(_AFTER), answer)


_BODIES = {
    "thank you": (
        "thank you very much for your letter about {topic}. It was a great pleasure to read it. "
        "I would like to talk with you about it on {date}. Please tell me if this day suits you."
    ),
    "invitation": (
        "I would like to invite you to a meeting about {topic}. We will meet on {date} at noon, "
        "and there will be coffee for everyone. Please let me know soon if you can come."
    ),
    "complaint": (
        "I am sorry to say that I am not happy with {topic}. I have waited for an answer for a long time. "
        "Please send me a reply before {date}, or I will have to ask for my money back."
    ),
    "reminder": (
        "this is a friendly reminder about {topic}. Your answer is due on {date}. "
        "If you have sent it already, please forget this letter. Otherwise we hope to hear from you soon."
    ),
}


def letter(rng: Random) -> Sample:
    kind = rng.choice(sorted(_BODIES))
    sender, receiver = rng.sample(NAMES, 2)
    topic, date = rng.choice(TOPICS), f"{rng.choice(MONTHS)} {rng.randint(1, 28)}"
    prompt = f"write a {kind} letter from {sender} to {receiver} about {topic}, date {date}"
    body = _BODIES[kind].format(topic=topic, date=date)
    return Sample("letter", prompt, f"Dear {receiver},\n\n{body}\n\nBest wishes,\n{sender}")


_PLACES = ("ones", "tens", "hundreds")


def add(rng: Random) -> Sample:
    digits = rng.choice((2, 3))
    low, high = 10 ** (digits - 1), 10**digits - 1
    a, b = rng.randint(low, high), rng.randint(low, high)
    lines, carry = [], 0
    for place, x, y in zip(_PLACES, str(a)[::-1], str(b)[::-1], strict=False):
        total = int(x) + int(y) + carry
        lines.append(f"{place}: {x}+{y}+{carry}={total}")
        carry = total // 10
    return Sample("add", f"add {a} and {b}", "\n".join([*lines, f"sum: {a + b}"]))


TASKS: dict[str, Callable[[Random], Sample]] = {
    "about": about,
    "add": add,
    "csv_to_json": csv_to_json,
    "extract": extract,
    "json_to_csv": json_to_csv,
    "json_to_pairs": json_to_pairs,
    "letter": letter,
    "pairs_to_csv": pairs_to_csv,
    "pairs_to_json": pairs_to_json,
    "repeat": repeat,
    "reverse": reverse,
    "sort_numbers": sort_numbers,
}
