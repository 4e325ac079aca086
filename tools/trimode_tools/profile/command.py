"""`trimode profile`: measure an engine, write FILE and its chart, show a table."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from random import Random

from trimode_api.modes import OperatingPoint
from trimode_local import console
from trimode_local.download import model_folder
from trimode_local.errors import BadInput
from trimode_local.preflight import machine_memory
from trimode_policy.profiles import known_gpu
from trimode_tools import engines, points, report
from trimode_tools.eval import questions
from trimode_tools.profile.harness import EngineHarness
from trimode_tools.profile.measure import (
    MAX_TOKENS,
    QUICK,
    Budget,
    Measurement,
    Plan,
    Prompts,
    Target,
    measure_round,
    powers_to,
    profile_of,
    with_ar,
)
from trimode_tools.profile.show import cycles_table, draw, sentences, validation_table
from trimode_tools.profile.validate import Outcome, RealLoop, compared, loop_clients, loop_requests
from trimode_tools.report import Progress
from trimode_tools.simulate.hardware import assembled, shape_of
from trimode_tools.simulate.profile_file import ProfileShape, write_profile

SHORT = 4
"""The lesser of the two contexts is this part of the greater."""


@dataclass(frozen=True, slots=True)
class Options:
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


@dataclass(frozen=True, slots=True)
class EngineUnderTest:
    """The engine that is measured, and what it is asked."""

    loaded: engines.Loaded
    target: Target
    prompts: Prompts

    @property
    def clock(self) -> Callable[[], float]:
        """Processor time where one thread does all the work: then others on the machine disturb little. Else the
        wall's."""
        alone = self.loaded.started.device == "cpu" and self.target.about["threads"] == 1
        return time.process_time if alone else time.perf_counter


def profile(options: Options) -> None:
    """The whole command. Raises TrimodeError."""
    if options.out.is_dir() or not options.out.parent.is_dir():
        raise BadInput(f"--out {options.out}: must be a file in a folder that exists")
    wanted = with_ar(points_of(options.points))
    budget = QUICK if options.quick else Budget()
    under_test = start(options, wanted, budget.answers)
    prompts = under_test.prompts
    contexts = (max(2, options.context // SHORT), options.context)
    plan = Plan(wanted, powers_to(options.max_batch), contexts, prompts.typical_length, budget)
    with report.progress("measured") as progress:
        measurement, loops = measure(under_test, plan, options.validate, progress)
    found = profile_of(measurement, under_test.target, prompts.tasks)
    hardware = assembled(found, shape_of(options.model))
    requests = loop_requests(prompts, measurement)
    comparisons = compared(under_test.loaded.engine.settings, plan.points, requests, hardware, loops)
    if comparisons:
        rows = [
            {
                "clients": each.clients,
                "rounds": list(each.rounds),
                "measured": asdict(each.measured),
                "predicted": asdict(each.predicted),
            }
            for each in comparisons
        ]
        found = found.model_copy(update={"about": {**found.about, "validation": rows}})
    write_profile(found, options.out)
    chart = options.out.with_suffix(".png")
    facts = found.about["machine"]
    where = f"{facts['processor']}, {facts['cores']} cores" if found.device == "cpu" else found.name
    subtitle = f"{found.model}, {found.about['dtype']}, {where}; means of whole cycles, medians over rounds"
    draw(found, hardware.prior, comparisons, subtitle, chart)
    console.out.print(cycles_table(found))
    for sentence in sentences(found, hardware.prior):
        console.out.print(sentence, soft_wrap=True)
    if comparisons:
        console.out.print(validation_table(comparisons))
    report.say_written(options.out, chart)


def points_of(text: str) -> tuple[OperatingPoint, ...]:
    """The points to measure. Raises BadInput for one with a threshold."""
    found = points.parse(text)
    for point in found:
        if point.threshold is not None:
            raise BadInput(
                f"--points: {point}: how many forwards a cycle with a threshold takes depends on the answer; "
                "`trimode eval` measures it on questions"
            )
    return found


def start(options: Options, wanted: Sequence[OperatingPoint], most: int) -> EngineUnderTest:
    """Fetch the model, read at most `most` prompts, build the engine. Raises BadInput for what does not fit."""
    folder = model_folder(options.model, options.adapter)
    asked = list(questions.suite(24) if options.prompts is None else questions.read(options.prompts))
    Random(0).shuffle(asked)
    asked = asked[:most]
    names = [str(point) for point in wanted]  # AR is the first, and the fallback
    spec = engines.EngineSpec(folder, options.adapter, names, options.max_batch, options.threads, shared_tokens=0)
    chats = [question.turns for question in asked]
    loaded = engines.load(spec, chats, lambda longest: max(2 * options.context, longest + MAX_TOKENS))
    started = loaded.started
    if started.max_context_tokens < loaded.context:
        raise BadInput(
            f"--context {options.context} and the prompts need {loaded.context} tokens of context, the model has "
            f"{started.max_context_tokens}"
        )
    if started.max_running_requests < options.max_batch:
        raise BadInput(
            f"--max-batch {options.max_batch}: memory holds {started.max_running_requests} requests of "
            f"{loaded.context} tokens"
        )
    prompts = Prompts(loaded.prompts, [question.task for question in asked])
    return EngineUnderTest(loaded, _target(options.model, folder, loaded), prompts)


def _target(model: str, folder: Path, loaded: engines.Loaded) -> Target:
    """What is measured, and on what."""
    import torch

    from trimode_workers.engine.class_controller import prior
    from trimode_workers.model.config import ModelConfig

    config = ModelConfig.from_folder(folder)
    started = loaded.started
    device, memory, name = "cpu", float(machine_memory()), "cpu"
    if started.device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        name, memory = properties.name, float(properties.total_memory)
        known = known_gpu(name)
        device = name if known is None else known.name
    shape = ProfileShape(
        parameters=round(prior(config).flops_per_token / 2),
        layers=config.layers,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        bytes_per_value=torch.finfo(getattr(torch, started.dtype)).bits // 8,
    )
    day, threads = time.strftime("%Y-%m-%d"), torch.get_num_threads()
    about = report.about() | {"day": day, "threads": threads, "dtype": started.dtype}
    return Target(f"{model} on {name}", model, device, memory, shape, about)


def measure(
    under_test: EngineUnderTest, plan: Plan, validate: bool, progress: Progress
) -> tuple[Measurement, dict[int, list[Outcome]]]:
    """Answers first, which warm the engine up; then rounds, each with the closed loops that the profile is to predict,
    by number of clients, one outcome a round."""
    engine, clock, budget = under_test.loaded.engine, under_test.clock, plan.budget
    measurement, loops = Measurement(), dict[int, list[Outcome]]()
    prompts = under_test.prompts
    harness = EngineHarness(engine, plan.points, [token for each in prompts.tokens for token in each], clock=clock)
    clients = loop_clients(plan.batches) if validate else ()
    counted = plan.points[1:] or plan.points
    total = len(counted) + budget.rounds * (plan.turns + len(clients))
    done = count(1)
    for point in counted:
        measurement.answers[point] = harness.answers(point, prompts.tokens, MAX_TOKENS)
        progress(f"{point}, answers", next(done), total)
    loop = None
    if validate:
        # An engine of its own: the first one's policy has learned from all those fixed points.
        beside = engine.beside(harness.configuration(None), clock)
        loop = RealLoop(beside, loop_requests(prompts, measurement), MAX_TOKENS, clock)
    for number in range(budget.rounds):
        for words in measure_round(harness, plan, measurement):
            progress(words, next(done), total)
        for level in clients:
            assert loop is not None
            before_s = budget.warm_s if number else budget.learn_s
            loops.setdefault(level, []).append(loop.run(level, before_s, budget.loop_s))
            progress(f"adaptive, {level} clients", next(done), total)
    return measurement, loops
