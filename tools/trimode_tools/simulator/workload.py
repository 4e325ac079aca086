"""What arrives: requests, and the loads that generate them.

Recorded traces are read by the command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from math import cos, exp, inf, log, pi, sqrt
from typing import Protocol


class Randomness(Protocol):
    """A seeded source of numbers, as `random.Random`."""

    def random(self) -> float:
        """Uniform in [0, 1)."""
        ...

    def gauss(self, mu: float, sigma: float) -> float:
        """Normal."""
        ...

    def expovariate(self, lambd: float) -> float:
        """Exponential with rate `lambd`."""
        ...


@dataclass(frozen=True, slots=True)
class Goal:
    """A tier's objective: seconds to the first token, seconds per later token; higher `priority` goes first."""

    name: str
    ttft_s: float
    tpot_s: float
    priority: int


@dataclass(frozen=True, slots=True)
class Job:
    """One request: seconds since the load began, tokens in and out, index of its tier and of its acceptance kind.

    `chat`: the conversation it goes on, 0 for none; `shared`: prompt tokens it has in common with that one so far.
    """

    at: float
    prompt: int
    output: int
    tier: int
    kind: int
    chat: int = 0
    shared: int = 0

    def __deepcopy__(self, memo: object) -> Job:
        return self


@dataclass(frozen=True, slots=True)
class Lengths:
    """Log-normal token counts: medians and sigmas of the logarithm, clipped to [1, most].

    The defaults resemble a conversation service: about 1,200 tokens in and 200 out in the mean.
    """

    prompt_median: float = 1000.0
    prompt_sigma: float = 0.6
    output_median: float = 150.0
    output_sigma: float = 0.75
    most: int = 4096

    def draw(self, median: float, sigma: float, rng: Randomness) -> int:
        """One length."""
        return max(1, min(self.most, round(median * exp(rng.gauss(0.0, sigma)))))


def tier_of(tiers: int, premium: float, rng: Randomness) -> int:
    """A request's tier: the first with probability `premium`, else one of the others."""
    return 0 if tiers == 1 or rng.random() < premium else 1 + int(rng.random() * (tiers - 1))


@dataclass(frozen=True, slots=True)
class Load:
    """A generated load. `rate(t)` and `premium(t)`: requests per second and share of the first tier at second t.

    `peak`: an upper bound of `rate`, for thinning. `kinds`: how many acceptance kinds there are, equally likely.
    """

    name: str
    duration_s: float
    peak: float
    rate: Callable[[float], float]
    premium: Callable[[float], float]
    lengths: Lengths = Lengths()

    def jobs(self, tiers: int, kinds: int, rng: Randomness) -> Iterator[Job]:
        """Poisson arrivals by thinning (Lewis and Shedler, 1979), in order."""
        now = 0.0
        while True:
            now += rng.expovariate(self.peak)
            if now >= self.duration_s:
                return
            if rng.random() * self.peak > self.rate(now):
                continue
            tier = tier_of(tiers, self.premium(now), rng)
            lengths = self.lengths
            prompt = lengths.draw(lengths.prompt_median, lengths.prompt_sigma, rng)
            output = lengths.draw(lengths.output_median, lengths.output_sigma, rng)
            yield Job(now, prompt, output, tier, int(rng.random() * kinds))


TURNS, THINK_S = 5.0, 15.0
"""Requests per conversation and seconds between an answer's end and the next question, both in the mean."""
ANSWER_S = 2.0
"""Seconds an answer is taken to need, for the time of the next question."""
QUESTION = Lengths(prompt_median=80.0, output_median=150.0)


@dataclass(frozen=True, slots=True)
class Chats:
    """Conversations: each prompt holds all that was said before. `rate`: requests per second, once it is steady."""

    name: str
    duration_s: float
    rate: float
    premium: float = 0.3
    first: Lengths = Lengths(prompt_median=600.0)

    def jobs(self, tiers: int, kinds: int, rng: Randomness) -> Iterator[Job]:
        """In order of arrival. Tier and kind belong to a conversation."""
        coming: list[tuple[float, int, Job]] = []
        start, chats = rng.expovariate(self.rate / TURNS), 0
        while coming or start < self.duration_s:
            if not coming or start < coming[0][0]:
                chats += 1
                tier = tier_of(tiers, self.premium, rng)
                prompt = self.first.draw(self.first.prompt_median, self.first.prompt_sigma, rng)
                job = Job(start, prompt, self._answer(rng), tier, int(rng.random() * kinds), chats)
                heappush(coming, (start, chats, job))
                start = start + rng.expovariate(self.rate / TURNS) if start < self.duration_s else inf
                continue
            job = heappop(coming)[2]
            if job.at >= self.duration_s:
                continue
            yield job
            said = job.prompt + job.output
            if rng.random() >= 1.0 / TURNS and said < QUESTION.most:
                asked = QUESTION.draw(QUESTION.prompt_median, QUESTION.prompt_sigma, rng)
                later = job.at + ANSWER_S + rng.expovariate(1.0 / THINK_S)
                goes_on = replace(job, at=later, prompt=said + asked, output=self._answer(rng), shared=said)
                heappush(coming, (later, job.chat, goes_on))

    def _answer(self, rng: Randomness) -> int:
        return self.first.draw(self.first.output_median, self.first.output_sigma, rng)


def constant(value: float) -> Callable[[float], float]:
    """The same at all times."""
    return lambda _t: value


def piecewise(values: Sequence[float], each_s: float) -> Callable[[float], float]:
    """Value i holds from second `i * each_s` on, the last one for ever."""
    return lambda t: values[min(len(values) - 1, int(t / each_s))]


STEPS = (0.2, 0.5, 0.9, 1.2, 0.9, 0.4, 1.1, 0.2)
"""Rates of the stepped load as shares of what the fleet carries."""


def steps(rate: float, duration_s: float) -> Load:
    """Up and down in plateaus; `rate` is about what the fleet carries."""
    levels = [share * rate for share in STEPS]
    return Load("steps", duration_s, max(levels), piecewise(levels, duration_s / len(levels)), constant(0.3))


def diurnal(rate: float, duration_s: float) -> Load:
    """One day in short: from 15 % of `rate` at night to 105 % at noon."""
    return Load(
        "diurnal",
        duration_s,
        1.05 * rate,
        lambda t: rate * (0.6 - 0.45 * cos(2 * pi * t / duration_s)),
        constant(0.3),
    )


def spikes(rate: float, duration_s: float) -> Load:
    """A calm base at 45 % of `rate` with a spike of 2.5 times the base for 20 s every 2 minutes."""
    base = 0.45 * rate
    return Load("spikes", duration_s, 2.5 * base, lambda t: 2.5 * base if 60 <= t % 120 < 80 else base, constant(0.3))


def tiers(rate: float, duration_s: float) -> Load:
    """A steady rate whose premium share swings between 10 and 70 % every 5 minutes."""
    return Load("tiers", duration_s, 0.7 * rate, constant(0.7 * rate), lambda t: 0.4 - 0.3 * cos(2 * pi * t / 300.0))


def chats(rate: float, duration_s: float) -> Chats:
    """Conversations at a steady rate, once the first ones have come to their second question."""
    return Chats("chats", duration_s, 0.8 * rate)


def random_walk(rate: float, duration_s: float, rng: Randomness, name: str = "random") -> Load:
    """Rate and premium share do a random walk in steps of 30 s: a load that no policy was tuned for."""
    level, share = log(0.5), 0.3
    levels, shares = [], []
    for _ in range(max(1, round(duration_s / 30.0))):
        level = min(log(1.3), max(log(0.05), level + 0.35 * rng.gauss(0.0, 1.0)))
        share = min(0.9, max(0.0, share + 0.1 * rng.gauss(0.0, 1.0)))
        levels.append(rate * exp(level))
        shares.append(share)
    lengths = Lengths(
        prompt_median=300.0 * exp(1.5 * rng.random()),
        output_median=80.0 * exp(sqrt(2.0) * rng.random()),
    )
    return Load(name, duration_s, max(levels), piecewise(levels, 30.0), piecewise(shares, 30.0), lengths)
