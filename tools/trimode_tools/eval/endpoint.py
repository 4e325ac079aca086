"""Answers from an endpoint that serves: the points it allows, timed as its clients see them.

Belongs here: asking over HTTP, `concurrency` at once, each request pinned to a point.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from trimode_api.fleet import PUBLIC_FLEET_PATH, FleetView
from trimode_api.modes import Mode, OperatingPoint
from trimode_local.client import Account, Endpoint
from trimode_local.errors import BadInput, CliError
from trimode_tools.eval.engine import Plan, Progress
from trimode_tools.eval.metrics import Answer, Run
from trimode_tools.eval.questions import Question


def allowed(endpoint: Endpoint) -> tuple[str, ...]:
    """The points that some replica behind the endpoint may use, AR first."""
    fleet = FleetView.from_wire(endpoint.get(PUBLIC_FLEET_PATH))
    found = {point for replica in fleet.replicas for point in replica.allowed_points}
    if not found:
        raise BadInput(f"{endpoint.url}: no replica is ready")
    return tuple(map(str, sorted(OperatingPoint.parse(point) for point in found)))


def ask(endpoint: Endpoint, questions: Sequence[Question], plan: Plan, progress: Progress) -> list[Run]:
    """One run for each point, points taking turns. Raises CliError where a request fails."""
    model = endpoint.model()
    seconds = dict.fromkeys(plan.points, 0.0)
    answers: dict[str, list[Answer]] = {point: [] for point in plan.points}
    total, asked = len(questions) * len(plan.points), 0
    with ThreadPoolExecutor(plan.concurrency) as pool:
        for start in range(0, len(questions), plan.concurrency):
            part = questions[start : start + plan.concurrency]
            for point in plan.points:
                body = {"temperature": 0, "max_tokens": plan.max_tokens, "trimode": pin(point)}
                began = time.perf_counter()
                answers[point] += pool.map(lambda question, body=body: _one(endpoint, model, question, body), part)
                seconds[point] += time.perf_counter() - began
                asked += len(part)
                progress(asked, total)
    return [Run(point, answers[point], seconds[point], _forwards(point, answers[point])) for point in plan.points]


def pin(point: str) -> dict[str, Any]:
    """The request's extension that pins it to `point`."""
    parsed = OperatingPoint.parse(point)
    options: dict[str, Any] = {"mode": parsed.mode.value}
    if parsed.mode is not Mode.AR:
        options["blockLength"] = parsed.block_length
    if parsed.threshold is not None:
        options["threshold"] = parsed.threshold
    return options


def _one(endpoint: Endpoint, model: str, question: Question, body: Mapping[str, Any]) -> Answer:
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
    produced = account.completion_tokens + (account.finish_reason == "stop")
    return Answer("".join(words), account.completion_tokens, produced, sum(account.cycles.values()), first, last)


def _forwards(point: str, answers: Sequence[Answer]) -> int | None:
    """Fixed by the cycles, but where a threshold decides about steps, which the endpoint does not tell."""
    parsed = OperatingPoint.parse(point)
    if parsed.threshold is not None:
        return None
    return parsed.forwards_per_cycle * sum(answer.cycles for answer in answers)
