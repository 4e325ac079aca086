"""The whole suite: which tasks, how often, and which prompts are held out of training.

The split is by construction: a prompt is held out when its hash says so, whichever task generates it, so the training
stream and the held-out set cannot overlap however many samples are drawn.
"""

from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from random import Random
from typing import Protocol, TypeVar

from trimode_tools.tasks.generators import TASKS, Sample


class Prompted(Protocol):
    """Any sample: its prompt decides which side of the split it is on."""

    @property
    def prompt(self) -> str: ...


AnySample = TypeVar("AnySample", bound=Prompted)
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
    """`per_task` distinct held-out samples of every task, the same for the same seed."""
    return held_out_of(TASKS, per_task, seed)


def held_out_of(tasks: Mapping[str, Callable[[Random], AnySample]], per_task: int, seed: int) -> list[AnySample]:
    """Of every one of `tasks`: `per_task` held-out samples of distinct prompts, the same for the same seed.

    A task with fewer held-out prompts than asked for gives all that it has (found by 200 draws for each).
    """
    found: list[AnySample] = []
    for name in sorted(tasks):
        rng = Random(f"{name}:{seed}")
        mine: dict[str, AnySample] = {}
        for _ in range(per_task * HELD_OUT_SHARE * 200):
            if len(mine) == per_task:
                break
            sample = tasks[name](rng)
            if is_held_out(sample.prompt):
                mine.setdefault(sample.prompt, sample)
        found.extend(mine.values())
    return found
