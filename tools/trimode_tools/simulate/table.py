"""The table that the command prints.

Belongs here: layout and what follows from an account by arithmetic (GPU hours, cost).
"""

from __future__ import annotations

from rich.table import Table

from trimode_tools.simulate.results import LoadResult, PolicyResult
from trimode_tools.simulate.run import Detail


def table_of(result: LoadResult, detail: Detail, gpu_hour_price: float) -> Table:
    """One load: a row per policy."""
    cost = f"switching costs {result.switch_cost_s:g} s" if result.switch_cost_s else "free switching"
    bound = "" if detail.bound_rps is None else f"; no policy can exceed {detail.bound_rps:.2f} good requests/s"
    table = Table(title=f"{result.name}, {cost}{bound}", title_justify="left")
    table.add_column("policy")
    tiers = tuple(result.policies[0].attainment_percent)
    headers = ("good/s", "offered/s", *(f"{tier} %" for tier in tiers), "TTFT p50/p95/p99 ms", "TPOT p50/p95/p99 ms")
    for header in (*headers, "switches/h", "moves/h", "GPU h", "$/M tokens", "regret %"):
        table.add_column(header, justify="right")
    for row in result.policies:
        table.add_row(*_cells(row, detail, gpu_hour_price))
    return table


def _cells(row: PolicyResult, detail: Detail, price: float) -> list[str]:
    account = detail.accounts[row.policy]
    hours = account.up_s / 3600.0
    cost = 1e6 * hours * price / account.tokens if account.tokens else 0.0
    return [
        row.policy,
        f"{row.goodput_rps:.2f}",
        f"{row.offered_rps:.2f}",
        *(f"{value:.1f}" for value in row.attainment_percent.values()),
        f"{row.ttft_ms.p50:.0f}/{row.ttft_ms.p95:.0f}/{row.ttft_ms.p99:.0f}",
        f"{row.tpot_ms.p50:.2f}/{row.tpot_ms.p95:.2f}/{row.tpot_ms.p99:.2f}",
        f"{row.switches_per_replica_hour:.0f}",
        f"{row.pool_moves_per_hour:.0f}",
        f"{hours:.2f}",
        f"{cost:.3f}",
        "-" if row.regret_percent is None else f"{row.regret_percent:.1f}",
    ]
