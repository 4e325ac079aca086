"""Answers from an engine in this process: every operating point, nothing between the clock and the model.

Belongs here: feeding requests and timing their tokens. Points take turns at each handful of questions, so that a
busy machine is unfair to none of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trimode_local.errors import BadInput, CliError
from trimode_tools.eval.metrics import Answer, Run
from trimode_tools.eval.questions import Question

if TYPE_CHECKING:
    from trimode_workers.engine.engine import Engine
    from trimode_workers.text.tokenizer import TextModel

Progress = Callable[[int, int], None]
"""(questions asked, questions in all), a question counted at each point."""


@dataclass(frozen=True, slots=True)
class Plan:
    """`concurrency` requests at once; answers of at most `max_tokens`."""

    points: tuple[str, ...]
    max_tokens: int
    concurrency: int


@dataclass(slots=True)
class _Timed:
    """A request on its way."""

    ids: list[int] = field(default_factory=list)
    cycles: int = 0
    ended: bool = False
    first_s: float | None = None
    last_s: float = 0.0


def ask(folder: Path, adapter: str | None, questions: Sequence[Question], plan: Plan, progress: Progress) -> list[Run]:
    """One run for each point, in the plan's order. Raises BadInput for a model or questions that do not fit."""
    from trimode_workers.engine.messages import Configure
    from trimode_workers.errors import ModelError, SettingsError, TemplateError, TokenizerError
    from trimode_workers.process.build import build
    from trimode_workers.replica.settings import EngineOptions
    from trimode_workers.text.tokenizer import load_text_model

    try:
        text = load_text_model(folder)
        prompts = [text.chat(question.turns) for question in questions]
        context = max(map(len, prompts)) + plan.max_tokens
        options = EngineOptions(
            model=str(folder),
            draft_adapter=adapter,
            max_context_tokens=max(16, context),
            max_running_requests=plan.concurrency,
        )
        engine, started = build(options, Configure(points=list(plan.points), fallback=plan.points[0]))
    except (ModelError, SettingsError, TokenizerError, TemplateError) as exc:
        raise BadInput(str(exc)) from exc
    if started.max_context_tokens < context:
        raise BadInput(
            f"the longest prompt and --max-tokens {plan.max_tokens} need {context} tokens of context, "
            f"the model has {started.max_context_tokens}"
        )
    return _in_turns(engine, text, prompts, plan, progress)


def _in_turns(
    engine: Engine, text: TextModel, prompts: Sequence[list[int]], plan: Plan, progress: Progress
) -> list[Run]:
    seconds = dict.fromkeys(plan.points, 0.0)
    timed: dict[str, list[_Timed]] = {point: [] for point in plan.points}
    total = len(prompts) * len(plan.points)
    asked = 0
    for start in range(0, len(prompts), plan.concurrency):
        part = prompts[start : start + plan.concurrency]
        for point in plan.points:
            began = time.perf_counter()
            timed[point] += _together(engine, part, point, plan.max_tokens)
            seconds[point] += time.perf_counter() - began
            asked += len(part)
            progress(asked, total)
    forwards = engine.stats().forwards_total
    return [
        Run(point, [_answer(text, one) for one in timed[point]], seconds[point], forwards.get(point))
        for point in plan.points
    ]


def _together(engine: Engine, prompts: Sequence[list[int]], point: str, max_tokens: int) -> list[_Timed]:
    """The prompts at once, all at `point`, until the last has ended."""
    from trimode_workers.engine.messages import Finish, Submit

    began = time.perf_counter()
    running = {str(index): _Timed() for index in range(len(prompts))}
    for (name, _), prompt in zip(running.items(), prompts, strict=True):
        engine.submit(Submit(name, prompt, max_tokens, pin=point, lossy_ok=True))
    while not engine.idle:
        events = engine.step().events
        now = time.perf_counter() - began
        for event in events:
            if event.finish is Finish.ERROR:
                raise CliError(f"{point}: the engine refused a question: {event.error}")
            one = running[event.request_id]
            if event.tokens:
                one.first_s = now if one.first_s is None else one.first_s
                one.last_s = now
                one.ids += event.tokens
            if event.finish is not None:
                one.cycles = sum(event.cycles.values())
                one.ended = event.finish is Finish.STOP
    return list(running.values())


def _answer(text: TextModel, one: _Timed) -> Answer:
    detokenizer = text.detokenizer()
    words = detokenizer.feed(one.ids) + detokenizer.flush()
    return Answer(words, len(one.ids), len(one.ids) + one.ended, one.cycles, one.first_s, one.last_s)
