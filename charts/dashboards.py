"""Grafana dashboards as tables, from which `generate` makes the JSON in the chart.

Belongs here: which panels there are and what they ask. Replicas report to every router, so their series come once
per router: `one` folds those copies. `job` is the routers' Service, one for each NemotronDeployment.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

COLUMNS = 24
HEIGHT = 8

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

FLEETS = Dashboard(
    uid="trimode-fleets",
    title="Trimode / fleets",
    known_by="trimode_router_policy_version",
    variables=("namespace", "job"),
    rows=(
        (
            "Requests",
            (
                Panel(
                    "Requests by end",
                    ((f"sum by (tier, status) ({rate('trimode_router_requests_total')})", "{{tier}} {{status}}"),),
                    "reqps",
                ),
                Panel(
                    "Refused, by reason",
                    ((f"sum by (reason) ({rate('trimode_router_refusals_total')})", "{{reason}}"),),
                    "reqps",
                    "429 is busy, 503 is nobody ready.",
                ),
                Panel(
                    "Now",
                    (
                        (f"sum(trimode_router_in_flight{FLEET})", "at replicas"),
                        (f"sum(trimode_router_queued{FLEET})", "queued in routers"),
                        (f"sum(trimode_router_client_connections{FLEET})", "client connections"),
                        (f"sum(trimode_router_tasks{FLEET})", "tasks in routers' event loops"),
                        (f"sum({rate('trimode_router_retries_total')})", "sent again per second"),
                    ),
                ),
            ),
        ),
        (
            "Latency and objectives",
            (
                Panel("Time to first token", both("trimode_router_time_to_first_token_seconds"), "s"),
                Panel("Time per output token", both("trimode_router_time_per_output_token_seconds"), "s"),
                Panel(
                    "Objectives met",
                    (
                        (
                            f"sum by (tier, objective) ({rate('trimode_router_objectives_total', MET)}) / "
                            f"sum by (tier, objective) ({rate('trimode_router_objectives_total')})",
                            "{{tier}} {{objective}}",
                        ),
                    ),
                    "percentunit",
                ),
                Panel("Whole request", both("trimode_router_request_seconds"), "s"),
                Panel(
                    "Streams that broke off and went on",
                    (
                        (
                            "histogram_quantile(0.95, sum by (le) "
                            f"({rate('trimode_router_resumption_seconds_bucket')}))",
                            "pause, p95",
                        ),
                        (f"sum({rate('trimode_router_resumption_seconds_count')})", "resumed per second"),
                    ),
                    note="A replica died in mid-stream; another one went on. Clients saw the pause only.",
                ),
                Panel("Wait in the queue", both("trimode_router_queue_wait_seconds"), "s"),
                Panel(
                    "Tokens in finished answers",
                    ((f"sum by (tier) ({rate('trimode_router_output_tokens_total')})", "{{tier}}"),),
                    "tokens/s",
                ),
            ),
        ),
        (
            "Modes",
            (
                Panel(
                    "Replicas by operating point",
                    ((f"sum by (point) ({one(POINT, f'trimode_replica_point_info{FLEET}')})", "{{point}}"),),
                    note="AR is token by token, S is self-speculation and D is diffusion, with the block length.",
                    stacked=True,
                ),
                Panel(
                    "Tokens emitted, by point",
                    ((f"sum by (point) ({one(POINT, rate('trimode_replica_tokens_total'))})", "{{point}}"),),
                    "tokens/s",
                    stacked=True,
                ),
                Panel(
                    "Changes of point per minute",
                    ((f"60 * {one(REPLICA, rate('trimode_replica_switches_total'))}", "{{pool}} {{replica}}"),),
                    note="Probes are not counted. At constant load this should be near nothing.",
                ),
                Panel(
                    "Predicted tokens per second, by point",
                    (
                        (
                            one("pool, point", f"trimode_replica_predicted_tokens_per_second{FLEET}"),
                            "{{pool}} {{point}}",
                        ),
                    ),
                    "tokens/s",
                    "At the present batch; the best replica of the pool.",
                ),
                Panel(
                    "Tokens per request and cycle",
                    (
                        (
                            f"avg by (pool, point) ({one(POINT, f'trimode_replica_tokens_per_cycle{FLEET}')})",
                            "{{pool}} {{point}}",
                        ),
                    ),
                    note="The acceptance length of self-speculation.",
                ),
                Panel(
                    "Predicted seconds of a cycle",
                    (
                        (
                            f"avg by (pool, point) ({one(POINT, f'trimode_replica_cycle_seconds{FLEET}')})",
                            "{{pool}} {{point}}",
                        ),
                    ),
                    "s",
                ),
            ),
        ),
        (
            "Replicas",
            (
                Panel(
                    "Ready",
                    ((f"sum by (pool) ({one(REPLICA, f'trimode_replica_ready{FLEET}')})", "{{pool}}"),),
                    stacked=True,
                ),
                Panel(
                    "Requests in replicas",
                    (
                        (f"sum by (pool) ({one(REPLICA, f'trimode_replica_running{FLEET}')})", "{{pool}} decoding"),
                        (f"sum by (pool) ({one(REPLICA, f'trimode_replica_waiting{FLEET}')})", "{{pool}} waiting"),
                    ),
                ),
                Panel(
                    "Tokens per second, by replica",
                    ((one(REPLICA, f"trimode_replica_tokens_per_second{FLEET}"), "{{pool}} {{replica}}"),),
                    "tokens/s",
                ),
                Panel(
                    "Age of the last report",
                    ((one(REPLICA, f"trimode_replica_report_age_seconds{FLEET}"), "{{pool}} {{replica}}"),),
                    "s",
                    "As seen by the router that has waited longest.",
                ),
                Panel(
                    "Prompt tokens not computed",
                    (
                        (
                            f"sum by (pool) ({one(REPLICA, rate(PROMPT, SHARED))})"
                            f" / sum by (pool) ({one(f'{REPLICA}, source', rate(PROMPT))})",
                            "{{pool}}",
                        ),
                    ),
                    "percentunit",
                    "Copied from the state of earlier requests that began alike.",
                ),
                Panel(
                    "Tokens in the cache; requests put back",
                    (
                        (one(REPLICA, f"trimode_replica_cached_tokens{FLEET}"), "{{pool}} {{replica}} cached"),
                        (
                            f"60 * {one(REPLICA, rate('trimode_replica_preemptions_total'))}",
                            "{{pool}} {{replica}} put back per minute",
                        ),
                    ),
                ),
                Panel(
                    "Policy in force",
                    ((one("namespace, job, pod", f"trimode_router_policy_version{FLEET}"), "{{job}} {{pod}}"),),
                    note="The generation of the resource. Routers of one job should agree.",
                ),
            ),
        ),
    ),
)

OPERATORS = Dashboard(
    uid="trimode-operator",
    title="Trimode / operator",
    known_by="trimode_operator_leader",
    variables=("namespace",),
    rows=(
        (
            "Health",
            (
                Panel("Leader", ((f"trimode_operator_leader{OPERATOR}", "{{pod}}"),), note="Exactly one should be 1."),
                Panel(
                    "Age of the watches",
                    ((f"trimode_operator_watch_age_seconds{OPERATOR}", "{{pod}}"),),
                    "s",
                    "The liveness probe restarts a copy whose watches stay silent.",
                ),
                Panel("Waiting for a visit", ((f"trimode_operator_queue_depth{OPERATOR}", "{{pod}}"),)),
            ),
        ),
        (
            "Resources",
            (
                Panel(
                    "Conditions that do not hold",
                    (
                        (
                            "max by (condition, status) (trimode_operator_resources"
                            '{namespace=~"$namespace", condition=~"Ready|Serving|SLOMet", status!="True"})',
                            "{{condition}} {{status}}",
                        ),
                    ),
                    note="How many NemotronDeployments.",
                ),
                Panel(
                    "Serving",
                    (
                        (
                            "max by (status) (trimode_operator_resources"
                            '{namespace=~"$namespace", condition="Serving"})',
                            "{{status}}",
                        ),
                    ),
                    stacked=True,
                ),
                Panel(
                    "Policies pushed to routers",
                    ((f"sum by (result) ({rate('trimode_operator_policy_pushes_total', OPERATOR)})", "{{result}}"),),
                    "ops",
                ),
            ),
        ),
        (
            "Reconciling",
            (
                Panel(
                    "Visits by result",
                    (
                        (
                            f"sum by (result) ({rate('trimode_operator_reconcile_seconds_count', OPERATOR)})",
                            "{{result}}",
                        ),
                    ),
                    "ops",
                ),
                Panel(
                    "Duration of a visit, p95",
                    (
                        (
                            "histogram_quantile(0.95, sum by (le, result) "
                            f"({rate('trimode_operator_reconcile_seconds_bucket', OPERATOR)}))",
                            "{{result}}",
                        ),
                    ),
                    "s",
                ),
                Panel(
                    "Failed, by reason",
                    ((f"sum by (reason) ({rate('trimode_operator_reconcile_errors_total', OPERATOR)})", "{{reason}}"),),
                    "ops",
                ),
                Panel(
                    "Writes to the API server",
                    (
                        (
                            f"sum by (verb, kind) ({rate('trimode_operator_writes_total', OPERATOR)})",
                            "{{verb}} {{kind}}",
                        ),
                    ),
                    "ops",
                    "A resync that finds nothing to do writes nothing.",
                    width=24,
                ),
            ),
        ),
    ),
)

DASHBOARDS = (FLEETS, OPERATORS)


def document(dashboard: Dashboard) -> dict[str, Any]:
    """The dashboard in Grafana's JSON."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in dashboard.rows:
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": title, "collapsed": False, "panels": []}
            | {"gridPos": {"x": 0, "y": top, "w": COLUMNS, "h": 1}}
        )
        top, left = top + 1, 0
        for panel in row:
            if left + panel.width > COLUMNS:
                top, left = top + HEIGHT, 0
            panels.append(_panel(panel, len(panels) + 1, left, top))
            left += panel.width
        top += HEIGHT
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["trimode"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": [_datasource(), *(_variable(v, dashboard.known_by) for v in dashboard.variables)]},
        "panels": panels,
    }


def _panel(panel: Panel, number: int, left: int, top: int) -> dict[str, Any]:
    custom = {"stacking": {"mode": "normal" if panel.stacked else "none"}, "fillOpacity": 30 if panel.stacked else 0}
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.note,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": {"x": left, "y": top, "w": panel.width, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0, "custom": custom}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": query, "legendFormat": legend}
            for index, (query, legend) in enumerate(panel.queries)
        ],
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}


def _variable(label: str, metric: str) -> dict[str, Any]:
    return {
        "name": label,
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": f"label_values({metric}, {label})", "refId": label},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "current": {"text": "All", "value": "$__all"},
    }
