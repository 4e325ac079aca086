"""`trimode profile`: measure an engine, write FILE and its picture, show a table.

Belongs here: the command's course, its checks and its output.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from trimode_api.modes import AR, OperatingPoint
from trimode_cli import console
from trimode_cli.bench import machine
from trimode_cli.errors import BadInput
from trimode_cli.eval import questions
from trimode_cli.profile.file import Profile, ProfileShape, write_profile
from trimode_cli.profile.fit import Answered
from trimode_cli.profile.measure import (
    QUICK,
    Effort,
    Plan,
    Progress,
    Taken,
    Target,
    measure_round,
    powers_to,
    profile_of,
    with_ar,
)
from trimode_cli.profile.plot import draw
from trimode_cli.profile.rig import Rig
from trimode_cli.profile.table import cycles_table, sentences, validation_table
from trimode_cli.profile.validate import Asked, Comparison, Outcome, RealLoop, predict, typical
from trimode_cli.simulate.acceptance import acceptance_of
from trimode_cli.simulate.hardware import Machine, assembled, shape_of
from trimode_cli.up import download
from trimode_cli.up.preflight import machine_memory
from trimode_policy.profiles import known_gpu
from trimode_policy.simulation.rows import EngineLimits
from trimode_policy.simulation.truth import Truth

if TYPE_CHECKING:
    from trimode_workers.engine.engine import Engine
    from trimode_workers.engine.messages import Started

MAX_TOKENS = 128
"""Longest answer while acceptance is counted, and of the closed loop."""
SHORT = 4
"""The lesser of the two contexts is this part of the greater."""
LEARN_S, WARM_S, LOOP_S = 4.0, 0.5, 2.5
"""Seconds of a closed loop before counting begins, in the first round and in later ones, and of counting."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The command line; see `main` for each."""

    out: Path
    model: str
    adapter: str | None
    points: str
    max_batch: int
    context: int
    threads: int
    prompts: str | None
    quick: bool
    validate: bool


@dataclass(slots=True)
class Subject:
    """The engine that is measured. `prompts` are token ids, `tasks` the kind of each."""

    engine: Engine
    started: Started
    target: Target
    prompts: list[list[int]]
    tasks: list[str]

    @property
    def clock(self) -> Callable[[], float]:
        """Processor time where one thread does all the work: then others on the machine disturb little. Else the
        wall's."""
        alone = self.started.device == "cpu" and self.target.about["threads"] == 1
        return time.process_time if alone else time.perf_counter


def profile(wanted: Wanted) -> None:
    """The whole command. Raises TrimodeError."""
    if wanted.out.is_dir() or not wanted.out.parent.is_dir():
        raise BadInput(f"--out {wanted.out}: must be a file in a folder that exists")
    points = with_ar(_points(wanted.points))
    effort = QUICK if wanted.quick else Effort()
    subject = _start(wanted, points, effort)
    piece = sorted(map(len, subject.prompts))[len(subject.prompts) // 2]
    plan = Plan(points, powers_to(wanted.max_batch), (max(2, wanted.context // SHORT), wanted.context), piece, effort)
    with _progress() as told:
        taken, loops = _measure(subject, plan, wanted.validate, told)
        found = profile_of(taken, subject.target, subject.tasks)
        hardware = assembled(found, shape_of(wanted.model))
        comparisons = _compared(subject, plan, taken, hardware, loops)
    if comparisons:
        found = found.model_copy(update={"about": {**found.about, "validation": [_plain(c) for c in comparisons]}})
    write_profile(found, wanted.out)
    picture = wanted.out.with_suffix(".png")
    draw(found, hardware.prior, comparisons, "What a cycle costs here", _subtitle(found), picture)
    console.out.print(cycles_table(found))
    for sentence in sentences(found, hardware.prior):
        console.out.print(sentence, soft_wrap=True)
    if comparisons:
        console.out.print(validation_table(comparisons))
    console.err.print(Text(f"wrote {wanted.out} and {picture}", style="dim"), soft_wrap=True)


def _points(text: str) -> list[OperatingPoint]:
    found = []
    for part in text.split(","):
        try:
            point = OperatingPoint.parse(part.strip())
        except ValueError as exc:
            raise BadInput(f"--points: {exc}") from exc
        if point.threshold is not None:
            raise BadInput(
                f"--points: {point}: how many forwards a cycle with a threshold takes depends on the answer; "
                "`trimode eval` measures it on questions"
            )
        found.append(point)
    return found


def _start(wanted: Wanted, points: Sequence[OperatingPoint], effort: Effort) -> Subject:
    """Fetch the model, read the prompts, build the engine. Raises BadInput for what does not fit."""
    from trimode_workers.engine.messages import Configure
    from trimode_workers.model.errors import ModelError
    from trimode_workers.process.build import build
    from trimode_workers.replica.settings import EngineOptions
    from trimode_workers.sources import Hub, ModelSource, SourceError, fetch
    from trimode_workers.text.errors import TemplateError, TokenizerError
    from trimode_workers.text.tokenizer import load_text_model

    with download.shown(console.err) as told:
        try:
            folder = fetch(ModelSource.parse(wanted.model), Hub.from_environment(os.environ), wanted.adapter, told)
        except SourceError as exc:
            raise BadInput(f"--model: {exc}") from exc
    asked = list(questions.suite(24) if wanted.prompts is None else questions.read(wanted.prompts))
    Random(0).shuffle(asked)
    asked = asked[: effort.answers]
    try:
        text = load_text_model(folder)
        prompts = [text.chat(question.turns) for question in asked]
        context = max(2 * wanted.context, max(map(len, prompts)) + MAX_TOKENS)
        options = EngineOptions(
            model=str(folder),
            draft_adapter=wanted.adapter,
            max_context_tokens=context,
            max_running_requests=wanted.max_batch,
            threads=wanted.threads,
        )
        engine, started = build(options, Configure([str(point) for point in points], str(AR)), shared_tokens=0)
    except (ModelError, TokenizerError, TemplateError) as exc:
        raise BadInput(str(exc)) from exc
    if started.max_context_tokens < context:
        raise BadInput(
            f"--context {wanted.context} and the prompts need {context} tokens of context, the model has "
            f"{started.max_context_tokens}"
        )
    if started.max_running_requests < wanted.max_batch:
        raise BadInput(
            f"--max-batch {wanted.max_batch}: memory holds {started.max_running_requests} requests of {context} tokens"
        )
    return Subject(engine, started, _target(wanted, folder, started), prompts, [question.task for question in asked])


def _target(wanted: Wanted, folder: Path, started: Started) -> Target:
    import torch

    from trimode_workers.engine.deciding import prior
    from trimode_workers.model.config import ModelConfig

    config = ModelConfig.from_folder(folder)
    device, memory, name = "cpu", float(machine_memory()), "cpu"
    if started.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        name, memory = properties.name, float(properties.total_memory)
        known = known_gpu(name)
        device = name if known is None else known.name
    return Target(
        name=f"{wanted.model} on {name}",
        model=wanted.model,
        device=device,
        memory_bytes=memory,
        shape=ProfileShape(
            parameters=round(prior(config).flops_per_token / 2),
            layers=config.layers,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            bytes_per_value=torch.finfo(getattr(torch, started.dtype)).bits // 8,
        ),
        about={
            "command": shlex.join(["trimode", *sys.argv[1:]]),
            "day": time.strftime("%Y-%m-%d"),
            "machine": machine.facts(),
            "versions": machine.versions(),
            "threads": torch.get_num_threads(),
            "dtype": started.dtype,
        },
    )


Loops = dict[int, list[Outcome]]
"""Closed loops by number of clients, one outcome a round."""


def _measure(subject: Subject, plan: Plan, validate: bool, told: Progress) -> tuple[Taken, Loops]:
    """Answers first, which warm the engine up; then rounds, each with the closed loops it is to predict."""
    taken, loops = Taken(), Loops()
    text = [token for prompt in subject.prompts for token in prompt]
    rig = Rig(subject.engine, plan.points, text, clock=subject.clock)
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
    for number in range(plan.effort.rounds):
        for words in measure_round(rig, plan, taken):
            advanced(words)
        for count in clients:
            assert loop is not None
            loops.setdefault(count, []).append(loop.run(count, WARM_S if number else LEARN_S, LOOP_S))
            advanced(f"adaptive, {count} clients")
    return taken, loops


def _loop(subject: Subject, plan: Plan, taken: Taken) -> RealLoop:
    """An engine of its own, because all those fixed points have left their mark on the first one's policy."""
    from trimode_workers.engine.messages import Configure

    engine = subject.engine.beside(Configure([str(point) for point in plan.points], str(AR)), subject.clock)
    return RealLoop(engine, asked_of(subject, taken), MAX_TOKENS, subject.clock)


def loop_clients(batches: Sequence[int]) -> tuple[int, ...]:
    """Every other batch: 1, 4, 16, 64."""
    return tuple(batches[::2])


def asked_of(subject: Subject, taken: Taken) -> list[Asked]:
    """The prompts as the closed loop's requests; greedy answers are the same at every point."""
    answers: list[Answered] = next(iter(taken.answers.values()))
    kinds = sorted(set(subject.tasks))
    return [
        Asked(prompt, answer.tokens, answer.tokens - answer.ended, kinds.index(task))
        for prompt, answer, task in zip(subject.prompts, answers, subject.tasks, strict=True)
    ]


def _compared(subject: Subject, plan: Plan, taken: Taken, hardware: Machine, loops: Loops) -> list[Comparison]:
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
        Comparison(count, typical(outcomes), predict(truth, hardware.prior, plan.points, limits, asked, count))
        for count, outcomes in loops.items()
    ]


def _plain(comparison: Comparison) -> Mapping[str, object]:
    return {
        "clients": comparison.clients,
        "measured": asdict(comparison.measured),
        "predicted": asdict(comparison.predicted),
    }


def _subtitle(found: Profile) -> str:
    facts = found.about["machine"]
    where = f"{facts['processor']}, {facts['cores']} cores" if found.device == "cpu" else found.name
    return f"{found.model}, {found.about['dtype']}, {where}; means of whole cycles, medians over rounds"


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar on a terminal, a line for each tenth elsewhere."""
    if not console.err.is_terminal:
        said: set[int] = set()

        def say(words: str, done: int, total: int) -> None:
            tenth = 10 * done // total
            if tenth not in said:
                said.add(tenth)
                console.err.print(f"measured {done} of {total}: {words}", soft_wrap=True)

        yield say
        return
    columns = (TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console.err, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda words, done, total: bar.update(task, description=words, completed=done, total=total)
