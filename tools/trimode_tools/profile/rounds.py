"""The course of a measurement: answers, then rounds of cycles and of the closed loops that they are to predict.

Belongs here: what runs in which order on the engine, and what the simulator makes of the profile afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence

from trimode_api.modes import AR
from trimode_tools.profile.engine_harness import EngineHarness
from trimode_tools.profile.engine_under_test import MAX_TOKENS, EngineUnderTest
from trimode_tools.profile.fit import Answered
from trimode_tools.profile.measure import Measurement, Plan, Progress, measure_round
from trimode_tools.profile.validate import Asked, Comparison, Outcome, RealLoop, predict, typical
from trimode_tools.simulate.hardware import Machine, acceptance_of
from trimode_tools.simulator.cost_model import Truth
from trimode_tools.simulator.rows import EngineLimits

Loops = dict[int, list[Outcome]]
"""Closed loops by number of clients, one outcome a round."""


def measure(subject: EngineUnderTest, plan: Plan, validate: bool, told: Progress) -> tuple[Measurement, Loops]:
    """Answers first, which warm the engine up; then rounds, each with the closed loops it is to predict."""
    taken, loops = Measurement(), Loops()
    text = [token for prompt in subject.prompts for token in prompt]
    rig = EngineHarness(subject.engine, plan.points, text, clock=subject.clock)
    clients = loop_clients(plan.batches) if validate else ()
    counted = plan.points[1:] or plan.points
    total = len(counted) + plan.effort.rounds * (plan.turns + len(clients))
    done = 0

    def advanced(words: str) -> None:
        nonlocal done
        done += 1
        told(words, done, total)

    for point in counted:
        taken.answers[point] = rig.answers(point, subject.prompts, MAX_TOKENS)
        advanced(f"{point}, answers")
    loop = _loop(subject, plan, taken) if validate else None
    effort = plan.effort
    for number in range(effort.rounds):
        for words in measure_round(rig, plan, taken):
            advanced(words)
        for count in clients:
            assert loop is not None
            before_s = effort.warm_s if number else effort.learn_s
            loops.setdefault(count, []).append(loop.run(count, before_s, effort.loop_s))
            advanced(f"adaptive, {count} clients")
    return taken, loops


def _loop(subject: EngineUnderTest, plan: Plan, taken: Measurement) -> RealLoop:
    """An engine of its own, because all those fixed points have left their mark on the first one's policy."""
    from trimode_workers.engine.messages import Configure

    engine = subject.engine.beside(Configure([str(point) for point in plan.points], str(AR)), subject.clock)
    return RealLoop(engine, asked_of(subject, taken), MAX_TOKENS, subject.clock)


def loop_clients(batches: Sequence[int]) -> tuple[int, ...]:
    """Every other batch: 1, 4, 16, 64."""
    return tuple(batches[::2])


def asked_of(subject: EngineUnderTest, taken: Measurement) -> list[Asked]:
    """The prompts as the closed loop's requests; greedy answers are the same at every point."""
    answers: list[Answered] = next(iter(taken.answers.values()))
    kinds = sorted(set(subject.tasks))
    return [
        Asked(prompt, answer.tokens, answer.tokens - answer.ended, kinds.index(task))
        for prompt, answer, task in zip(subject.prompts, answers, subject.tasks, strict=True)
    ]


def compared(
    subject: EngineUnderTest, plan: Plan, taken: Measurement, hardware: Machine, loops: Loops
) -> list[Comparison]:
    """What the simulator makes of the profile, beside the closed loops on the engine."""
    table = acceptance_of(hardware, None, "")
    kinds = len(set(subject.tasks))
    accepted = table.tokens if len(table.tokens) == kinds else table.tokens[:1] * kinds
    truth = Truth(hardware.truth, accepted, measured=table.measured)
    settings = subject.engine.settings
    limits = EngineLimits(
        settings.max_running_requests, settings.capacity, settings.prefill_budget_tokens, hardware.noise
    )
    asked = asked_of(subject, taken)
    return [
        Comparison(
            count,
            typical(outcomes),
            predict(truth, hardware.prior, plan.points, limits, asked, count),
            tuple(outcome.tokens_per_s for outcome in outcomes),
        )
        for count, outcomes in loops.items()
    ]
