"""The command `trimode simulate`.

Belongs here: options, their checks, the progress bar and what is written where.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from random import Random
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from trimode_cli import console
from trimode_cli.errors import BadInput
from trimode_cli.simulate.acceptance import BUILT_IN, read_acceptance
from trimode_cli.simulate.hardware import machine
from trimode_cli.simulate.run import Case, Detail, compare_all
from trimode_cli.simulate.table import table_of
from trimode_cli.simulate.traces import Arrival, TraceFormat, as_jobs, read_trace
from trimode_cli.simulate.world import LOADS, NamedLoad, generated, scenario_of, stressed
from trimode_cli.up.load import load as load_deployment
from trimode_policy.simulation.oracle import Search
from trimode_policy.simulation.policies import ORACLE, policy_names
from trimode_policy.simulation.scenario import Scenario
from trimode_policy.simulation.workload import Job

GENERATED_BY_DEFAULT = ("steps", "diurnal", "spikes")
MEAN_PROMPT, MEAN_OUTPUT = 1200.0, 200.0
"""Tokens of a typical request, from which the rate of generated loads is derived."""
WIDTH = 150
"""Columns of the table, wherever it is printed: a narrow terminal wraps lines rather than hiding numbers."""


def simulate(
    file: Annotated[str, typer.Option("--file", "-f", metavar="FILE", help="YAML file with a NemotronDeployment.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for results.json and plots.")],
    trace: Annotated[Path | None, typer.Option(metavar="PATH", help="A recorded load.")] = None,
    trace_format: Annotated[str, typer.Option(help="azure, mooncake or burstgpt.")] = "azure",
    load: Annotated[
        list[str] | None,
        typer.Option(help=f"A generated load: {', '.join(LOADS)}. May be repeated; the first three by default."),
    ] = None,
    time_scale: Annotated[float, typer.Option(help="Run the trace this many times as fast.")] = 1.0,
    profile: Annotated[
        str | None, typer.Option(help="Hardware: a device (H100, H200, B200, A100, L4), or a measured profile's path.")
    ] = None,
    switch_cost: Annotated[
        list[float] | None,
        typer.Option(metavar="SECONDS", help="Seconds a replica is away to change its mode; 0: between two cycles."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same results.")] = 0,
    duration: Annotated[float, typer.Option(metavar="SECONDS", help="Length of generated loads.")] = 600.0,
    rate: Annotated[
        float | None, typer.Option(help="Requests/s generated loads are scaled to; else what the fleet carries.")
    ] = None,
    premium: Annotated[float, typer.Option(help="Share of a trace's requests in the first tier.")] = 0.3,
    acceptance: Annotated[Path | None, typer.Option(metavar="PATH", help="CSV: tokens per cycle by kind.")] = None,
    drafter: Annotated[str, typer.Option(help="Which row of the acceptance table.")] = "lora",
    stress: Annotated[bool, typer.Option(help="Wrong prior, drifting acceptance and a dying replica.")] = False,
    policies: Annotated[str | None, typer.Option(help="Only these, separated by commas.")] = None,
    window: Annotated[float, typer.Option(help="Seconds between the oracle's changes of plan.")] = 30.0,
    width: Annotated[int, typer.Option(min=1, help="Plans the oracle's beam search keeps.")] = 2,
    gpu_hour_price: Annotated[float, typer.Option(help="Dollars per GPU hour, for the table.")] = 3.0,
    plots: Annotated[bool, typer.Option(help="Draw plots.")] = True,
) -> None:
    """Compare policies on a load: static modes, a split, hysteresis, trimode's own and an oracle."""
    for name, value, least in (("time-scale", time_scale, 1e-9), ("duration", duration, 1.0), ("window", window, 1.0)):
        _at_least(name, value, least)
    costs = switch_cost or [0.0]
    for cost in costs:
        _at_least("switch-cost", cost, 0.0)
    if not 0 <= premium <= 1:
        raise BadInput(f"--premium is {premium:g}, must be between 0 and 1")
    if rate is not None:
        _at_least("rate", rate, 1e-9)
    deployment = load_deployment(file)
    table = BUILT_IN if acceptance is None else read_acceptance(acceptance, drafter)
    scenario = scenario_of(deployment, machine(deployment, profile), table)
    loads = list(_recorded(trace, trace_format, time_scale, premium, scenario, seed))
    if load or trace is None:
        scale = rate or scenario.carried_rps(MEAN_PROMPT, MEAN_OUTPUT)
        loads += [generated(name, scenario, scale, duration, seed) for name in load or GENERATED_BY_DEFAULT]
    chosen = _chosen(policies, scenario)
    cases = [_case(each, scenario, cost, stress) for each in loads for cost in costs]
    out.mkdir(parents=True, exist_ok=True)
    _compare(cases, chosen, seed, Search(window, width), out, gpu_hour_price, plots)


def _at_least(name: str, value: float, least: float) -> None:
    if not least <= value < float("inf"):
        raise BadInput(f"--{name} is {value:g}, must be a number of at least {least:g}")


def _recorded(
    trace: Path | None, form: str, time_scale: float, premium: float, scenario: Scenario, seed: int
) -> Iterator[NamedLoad]:
    if form not in list(TraceFormat):
        raise BadInput(f"--trace-format is {form!r}, must be one of {', '.join(TraceFormat)}")
    if trace is None:
        return
    arrivals: list[Arrival] = read_trace(trace, TraceFormat(form))
    tiers, kinds = len(scenario.goals), scenario.truth.kinds
    jobs: list[Job] = as_jobs(arrivals, time_scale, premium, tiers, kinds, Random(seed))
    yield NamedLoad(trace.stem, max(1.0, jobs[-1].at), lambda: chain(jobs))


def _chosen(policies: str | None, scenario: Scenario) -> tuple[str, ...]:
    allowed = policy_names(scenario)
    wanted = allowed if policies is None else tuple(name.strip() for name in policies.split(","))
    for name in wanted:
        if name not in allowed:
            raise BadInput(f"--policies names {name!r}, must be one of {', '.join(allowed)}")
    return wanted


def _case(load: NamedLoad, scenario: Scenario, cost: float, stress: bool) -> Case:
    world = replace(stressed(scenario, load.duration_s) if stress else scenario, switch_s=cost)
    return Case(replace(load, name=f"{load.name}+stress") if stress else load, world)


def _compare(
    cases: list[Case],
    policies: tuple[str, ...],
    seed: int,
    search: Search,
    out: Path,
    price: float,
    plots: bool,
) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    with Progress(*columns, TimeElapsedColumn(), console=console.err, transient=True) as bar:
        task = bar.add_task("starting", total=len(cases) * len(policies))

        def progress(number: int, policy: str, share: float) -> None:
            done = number * len(policies) + policies.index(policy) + share
            bar.update(task, description=f"{cases[number].load.name}, {policy}", completed=done)

        results, details = compare_all(cases, policies, seed, search, progress)
    wide = Console(width=max(console.out.width, WIDTH), highlight=False)
    path = out / "results.json"
    path.write_text(results.model_dump_json(indent=2) + "\n", encoding="utf-8")
    for result, detail in zip(results.loads, details, strict=True):
        wide.print(table_of(result, detail, price))
        if ORACLE in policies:
            console.out.print(_about(detail), style="dim", soft_wrap=True)
    written = [path]
    if plots:
        from trimode_cli.simulate.plots import draw

        written += draw(results.loads, details, out)
    console.out.print(f"wrote {', '.join(str(each) for each in written)}", soft_wrap=True)


def _about(detail: Detail) -> str:
    return (
        "regret is against the best run found by someone who knows the future (beam search over routing plans and "
        f"pool sizes, {detail.case.scenario.replicas} replicas)"
    )
