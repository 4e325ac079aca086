"""The words of dashboards: panels, rows of them, and the queries that many ask in the same way.

Belongs here: frozen values and helpers that write PromQL. Replicas report to every router, so their series come once
per router: `one` folds those copies. `job` is the routers' Service, one for each NemotronDeployment.
"""

from __future__ import annotations

from dataclasses import dataclass

FLEET = '{namespace=~"$namespace", job=~"$job"}'
MET = '{namespace=~"$namespace", job=~"$job", met="true"}'
PROMPT = "trimode_replica_prompt_tokens_total"
SHARED = '{namespace=~"$namespace", job=~"$job", source="shared"}'
OPERATOR = '{namespace=~"$namespace"}'


@dataclass(frozen=True, slots=True)
class Panel:
    """A graph: queries with their legends. `unit` is Grafana's name of it."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    note: str = ""
    stacked: bool = False
    width: int = 8


@dataclass(frozen=True, slots=True)
class Dashboard:
    """Rows of panels, and the metric whose labels fill the variables at the top."""

    uid: str
    title: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]
    known_by: str
    variables: tuple[str, ...]


def rate(counter: str, where: str = FLEET) -> str:
    return f"rate({counter}{where}[$__rate_interval])"


def one(by: str, query: str) -> str:
    """The routers' copies of a replica's series folded into one."""
    return f"max by ({by}) ({query})"


def quantile(share: float, histogram: str) -> str:
    return f"histogram_quantile({share}, sum by (le, tier) ({rate(f'{histogram}_bucket')}))"


def both(histogram: str) -> tuple[tuple[str, str], ...]:
    return (
        (quantile(0.5, histogram), "{{tier}} p50"),
        (quantile(0.95, histogram), "{{tier}} p95"),
    )


REPLICA = "namespace, job, pool, replica"
POINT = f"{REPLICA}, point"
