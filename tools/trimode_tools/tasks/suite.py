"""The whole suite: which tasks, how often, and which prompts are held out of training.

The split is by construction: a prompt is held out when its hash says so, whoever generates it, so the training
stream and the held-out set cannot overlap however many samples are drawn.
"""

from collections.abc import Callable, Iterator
from hashlib import sha256
from random import Random

from trimode_tools.tasks.about import about
from trimode_tools.tasks.lists import extract, repeat, reverse, sort_numbers
from trimode_tools.tasks.records import csv_to_json, json_to_csv, json_to_pairs, pairs_to_csv, pairs_to_json
from trimode_tools.tasks.sample import Sample
from trimode_tools.tasks.words import MONTHS, NAMES, TOPICS

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


Generator = Callable[[Random], Sample]

TASKS: dict[str, Generator] = {
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
HELD_OUT_SHARE = 16
"""One prompt in this many is held out."""


def is_held_out(prompt: str) -> bool:
    """Whether a prompt belongs to the held-out set; depends on its text alone."""
    return sha256(prompt.encode()).digest()[0] % HELD_OUT_SHARE == 0


def stream(rng: Random, *, held_out: bool, weights: dict[str, float] | None = None) -> Iterator[Sample]:
    """Endless samples of one side of the split; `weights` by task name, all equal without."""
    names = sorted(TASKS)
    shares = [1.0 if weights is None else weights.get(name, 1.0) for name in names]
    while True:
        sample = TASKS[rng.choices(names, shares)[0]](rng)
        if is_held_out(sample.prompt) == held_out:
            yield sample


def held_out_set(per_task: int, seed: int = 0) -> list[Sample]:
    """`per_task` distinct held-out samples of every task, the same for the same seed.

    A task with fewer held-out prompts than asked for gives all that it has (found by 200 draws for each).
    """
    found: list[Sample] = []
    for name in sorted(TASKS):
        rng = Random(f"{name}:{seed}")
        mine: dict[str, Sample] = {}
        for _ in range(per_task * HELD_OUT_SHARE * 200):
            if len(mine) == per_task:
                break
            sample = TASKS[name](rng)
            if is_held_out(sample.prompt):
                mine.setdefault(sample.prompt, sample)
        found.extend(mine.values())
    return found
