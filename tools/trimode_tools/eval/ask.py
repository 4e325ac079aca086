"""Answers at every operating point: from an engine in this process, or from an endpoint that serves.

Points take turns at each handful of questions, so that a busy machine is unfair to none of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimode_api.fleet import PUBLIC_FLEET_PATH, FleetView
from trimode_api.modes import OperatingPoint
from trimode_local.client import Account, Endpoint
from trimode_local.errors import BadInput, CliError
from trimode_tools import engines
from trimode_tools.eval.metrics import Answer, Run
from trimode_tools.eval.questions import Question
from trimode_tools.points import pin

Progress = Callable[[int, int], None]
"""(questions asked, questions in all), a question counted at each point."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`concurrency` requests at once; answers of at most `max_tokens`."""

    points: tuple[str, ...]
    max_tokens: int
    concurrency: int


def ask_engine(
    folder: Path, adapter: str | None, questions: Sequence[Question], plan: Plan, progress: Progress
) -> list[Run]:
    """One run for each point, in the plan's order. Raises BadInput for a model or questions that do not fit."""
    spec = engines.EngineSpec(folder, adapter, plan.points, plan.concurrency)
    chats = [question.turns for question in questions]
    loaded = engines.load(spec, chats, lambda longest: max(16, longest + plan.max_tokens))
    if loaded.started.max_context_tokens < loaded.context:
        raise BadInput(
            f"the longest prompt and --max-tokens {plan.max_tokens} need {loaded.context} tokens of context, "
            f"the model has {loaded.started.max_context_tokens}"
        )

    def answers(point: str, part: slice) -> list[Answer]:
        found = []
        for one in engines.complete(loaded.engine, loaded.prompts[part], point, plan.max_tokens):
            detokenizer = loaded.text.detokenizer()
            words = detokenizer.feed(one.ids) + detokenizer.flush()
            found.append(Answer(words, len(one.ids), one.produced, one.cycles, one.first_s, one.last_s))
        return found

    runs = _in_turns(len(questions), plan, answers, progress)
    totals = loaded.engine.stats().forwards_total
    return [Run(name, *run, _forwards(name, run[0], totals.get(name))) for name, run in runs.items()]


def ask_endpoint(endpoint: Endpoint, questions: Sequence[Question], plan: Plan, progress: Progress) -> list[Run]:
    """One run for each point, timed as clients see it. Raises CliError where a request fails."""
    model = endpoint.model()

    def ask(question: Question, body: Mapping[str, Any]) -> Answer:
        began = time.perf_counter()
        first: float | None = None
        last, words, account = 0.0, [], Account()
        for piece in endpoint.chat(model, question.turns, body):
            if isinstance(piece, Account):
                account = piece
                continue
            last = time.perf_counter() - began
            first = last if first is None else first
            words.append(piece)
        if not account.finish_reason:
            raise CliError("an answer ended without its usage; is this a trimode endpoint?")
        # The end takes a forward as other tokens do, but no client gets it.
        produced = account.completion_tokens + (account.finish_reason == "stop")
        return Answer("".join(words), account.completion_tokens, produced, sum(account.cycles.values()), first, last)

    with ThreadPoolExecutor(plan.concurrency) as pool:

        def answers(point: str, part: slice) -> list[Answer]:
            body = {"temperature": 0, "max_tokens": plan.max_tokens, "trimode": pin(point)}
            return list(pool.map(lambda question: ask(question, body), questions[part]))

        runs = _in_turns(len(questions), plan, answers, progress)
    return [Run(name, *run, _forwards(name, run[0], None)) for name, run in runs.items()]


def _forwards(name: str, given: Sequence[Answer], counted: int | None) -> int | None:
    """Of all rows. With a threshold their number depends on the answer: then what the engine has counted, which an
    endpoint does not tell."""
    point = OperatingPoint.parse(name)
    return counted if point.threshold is not None else point.forwards_per_cycle * sum(a.cycles for a in given)


def _in_turns(
    count: int, plan: Plan, answers: Callable[[str, slice], list[Answer]], progress: Progress
) -> dict[str, tuple[list[Answer], float]]:
    """By point, all answers and the seconds that they took."""
    # Points take turns at each part of the questions, so that they compare on a machine that is busy with other things.
    found: dict[str, tuple[list[Answer], float]] = {point: ([], 0.0) for point in plan.points}
    asked = 0
    for start in range(0, count, plan.concurrency):
        part = slice(start, min(count, start + plan.concurrency))
        for point, (known, seconds) in found.items():
            began = time.perf_counter()
            known += answers(point, part)
            found[point] = known, seconds + time.perf_counter() - began
            asked += part.stop - part.start
            progress(asked, count * len(plan.points))
    return found


def allowed(endpoint: Endpoint) -> tuple[str, ...]:
    """The points that some replica behind the endpoint may use, AR first. Raises BadInput without any."""
    fleet = FleetView.from_wire(endpoint.get(PUBLIC_FLEET_PATH))
    found = {point for replica in fleet.replicas for point in replica.allowed_points}
    if not found:
        raise BadInput(f"{endpoint.url}: no replica is ready")
    return tuple(map(str, sorted(OperatingPoint.parse(point) for point in found)))
