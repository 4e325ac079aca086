"""One run of `trimode simulate`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain, product
from pathlib import Path
from random import Random

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from trimode_local import console
from trimode_local.errors import BadInput
from trimode_local.resource_file import load as load_deployment
from trimode_tools.simulate.hardware import acceptance_of, machine
from trimode_tools.simulate.run import Case, Detail, LoadResult, Plan, Results, compare_all
from trimode_tools.simulate.show import draw, table_of
from trimode_tools.simulate.traces import Mix, TraceFormat, as_jobs, read_trace
from trimode_tools.simulate.world import NamedLoad, generated, scenario_of, stressed
from trimode_tools.simulator.oracle import Search
from trimode_tools.simulator.policies import ORACLE, asked_for_only, policy_names
from trimode_tools.simulator.scenario import Scenario

GENERATED_BY_DEFAULT = ("steps", "diurnal", "spikes")
MEAN_PROMPT, MEAN_OUTPUT = 1200.0, 200.0
"""Tokens of a typical request, from which the rate of generated loads is derived."""
WIDTH = 150
"""Columns of the table, wherever it is printed: a narrow terminal wraps lines rather than hiding numbers."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says; see `command` for each."""

    file: str
    out: Path
    trace: Path | None
    trace_format: str
    load: list[str] | None
    time_scale: float
    profile: str | None
    switch_cost: list[float] | None
    seed: int
    duration: float
    rate: float | None
    premium: float
    acceptance: Path | None
    drafter: str
    stress: bool
    policies: str | None
    window: float
    width: int
    gpu_hour_price: float
    plots: bool


def run(options: Options) -> None:
    """Check the options, simulate, print and write. Raises BadInput or InvalidInput before anything runs."""
    costs = options.switch_cost or [0.0]
    _at_least("time-scale", options.time_scale, 1e-9)
    _at_least("duration", options.duration, 1.0)
    _at_least("window", options.window, 1.0)
    for cost in costs:
        _at_least("switch-cost", cost, 0.0)
    if options.rate is not None:
        _at_least("rate", options.rate, 1e-9)
    if not 0 <= options.premium <= 1:
        raise BadInput(f"--premium is {options.premium:g}, must be between 0 and 1")
    deployment = load_deployment(options.file)
    hardware = machine(deployment, options.profile)
    if hardware.model not in (None, deployment.spec.model.uri):
        console.err.print(
            f"note: {options.profile} was measured with {hardware.model}, {options.file} serves "
            f"{deployment.spec.model.uri}",
            soft_wrap=True,
        )
    scenario = scenario_of(deployment, hardware, acceptance_of(hardware, options.acceptance, options.drafter))
    allowed = policy_names(scenario)
    chosen = allowed if options.policies is None else tuple(name.strip() for name in options.policies.split(","))
    known = (*allowed, *asked_for_only(scenario))
    for name in chosen:
        if name not in known:
            raise BadInput(f"--policies names {name!r}, must be one of {', '.join(known)}")
    loads = list(_recorded(options, scenario))
    rate = options.rate or scenario.carried_rps(MEAN_PROMPT, MEAN_OUTPUT)
    names = options.load or (GENERATED_BY_DEFAULT if options.trace is None else ())
    loads += (generated(name, scenario, rate, options.duration, options.seed) for name in names)
    cases = []
    for load, cost in product(loads, costs):
        world = stressed(scenario, load.duration_s) if options.stress else scenario
        named = replace(load, name=f"{load.name}+stress") if options.stress else load
        cases.append(Case(named, replace(world, switch_s=cost)))
    options.out.mkdir(parents=True, exist_ok=True)
    _compare(cases, chosen, options)


def _at_least(name: str, value: float, least: float) -> None:
    if not least <= value < float("inf"):
        raise BadInput(f"--{name} is {value:g}, must be a number of at least {least:g}")


def _recorded(options: Options, scenario: Scenario) -> Iterator[NamedLoad]:
    if options.trace_format not in list(TraceFormat):
        raise BadInput(f"--trace-format is {options.trace_format!r}, must be one of {', '.join(TraceFormat)}")
    if options.trace is None:
        return
    arrivals = read_trace(options.trace, TraceFormat(options.trace_format))
    mix = Mix(options.premium, len(scenario.goals), scenario.truth.kinds)
    jobs = as_jobs(arrivals, options.time_scale, mix, Random(options.seed))
    yield NamedLoad(options.trace.stem, max(1.0, jobs[-1].at), lambda: chain(jobs))


def _compare(cases: list[Case], policies: tuple[str, ...], options: Options) -> None:
    wide = Console(width=max(console.out.width, WIDTH), highlight=False)
    path, results, details = options.out / "results.json", list[LoadResult](), list[Detail]()
    plan = Plan(policies, options.seed, Search(options.window, options.width))
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=console.err, transient=True) as bar:
        task = bar.add_task("starting", total=len(cases) * len(policies))

        def progress(number: int, policy: str, share: float) -> None:
            done = number * len(policies) + policies.index(policy) + share
            bar.update(task, description=f"{cases[number].load.name}, {policy}", completed=done)

        for result, detail in compare_all(cases, plan, progress):
            results.append(result)
            details.append(detail)
            # Written after each load: a long comparison that is interrupted leaves what it has.
            path.write_text(Results(loads=tuple(results)).model_dump_json(indent=2) + "\n", encoding="utf-8")
            wide.print(table_of(result, detail, options.gpu_hour_price))
            if ORACLE in policies:
                console.out.print(
                    "regret is against the best run found with the whole load known in advance (beam search over "
                    f"routing plans and pool sizes, {detail.case.scenario.replicas} replicas)",
                    style="dim",
                    soft_wrap=True,
                )
    written = [path]
    if options.plots:
        written += draw(results, details, options.out)
    console.out.print(f"wrote {', '.join(str(each) for each in written)}", soft_wrap=True)
