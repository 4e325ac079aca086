"""The command `trimode simulate`: its options.

Importable at no cost, because the command line imports it to start. What it does is in `session`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def simulate(
    file: Annotated[str, typer.Option("--file", "-f", metavar="FILE", help="YAML file with a NemotronDeployment.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for results.json and plots.")],
    trace: Annotated[Path | None, typer.Option(metavar="PATH", help="A recorded load.")] = None,
    trace_format: Annotated[str, typer.Option(help="azure, mooncake or burstgpt.")] = "azure",
    load: Annotated[
        list[str] | None,
        typer.Option(
            help="A load: steps, diurnal, spikes (these by default), tiers, chats, random-a, random-b. Repeatable."
        ),
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
    policies: Annotated[
        str | None, typer.Option(help="Only these, separated by commas; another name lists all.")
    ] = None,
    window: Annotated[float, typer.Option(help="Seconds between the oracle's changes of plan.")] = 30.0,
    width: Annotated[int, typer.Option(min=1, help="Plans the oracle's beam search keeps.")] = 2,
    gpu_hour_price: Annotated[float, typer.Option(help="Dollars per GPU hour, for the table.")] = 3.0,
    plots: Annotated[bool, typer.Option(help="Draw plots.")] = True,
) -> None:
    """Compare policies on a load: static modes, a split, hysteresis, trimode's own and an oracle.

    Writes results.json and plots into DIR and prints a table per load.
    """
    options = locals()  # before anything else is: exactly the parameters above, which `Options` repeats
    from trimode_tools.simulate.session import Options, run

    run(Options(**options))
