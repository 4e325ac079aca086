"""The dashboard of fleets: requests, latency, operating points, replicas.

Belongs here: which panels there are and what they ask.
"""

from __future__ import annotations

from panels import FLEET, MET, POINT, PROMPT, REPLICA, SHARED, Dashboard, Panel, both, one, rate

COST_PER_HOUR = (
    f"sum by (namespace, job, tenant) ({rate('trimode_router_gpu_seconds_total')})"
    f" * on (namespace, job) group_left() max by (namespace, job) (trimode_router_gpu_hour_cost{FLEET})"
)

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
        (
            "Cost",
            (
                Panel(
                    "Cost per hour, by tenant",
                    ((f"sum by (tenant) ({COST_PER_HOUR})", "{{tenant}}"),),
                    note="GPU time that requests have cost, at spec.costPerGPUHour; 0 where that is not set. Time in "
                    "which no request ran is nobody's.",
                    stacked=True,
                ),
                Panel(
                    "Cost per million tokens, by tenant",
                    (
                        (
                            f"1000000 / 3600 * sum by (tenant) ({COST_PER_HOUR})"
                            f" / sum by (tenant) ({rate('trimode_router_tenant_tokens_total')})",
                            "{{tenant}}",
                        ),
                    ),
                    note="Tokens of prompts and answers.",
                ),
                Panel(
                    "GPUs in use, by mode",
                    (
                        (f"sum by (mode) ({rate('trimode_router_gpu_seconds_total')})", "{{mode}}"),
                        (
                            f"sum({one(REPLICA, f'trimode_replica_ready{FLEET}')})"
                            f" - sum({one(REPLICA, rate('trimode_replica_busy_seconds_total'))})",
                            "idle",
                        ),
                    ),
                    note="Seconds of engines per second. What is missing to the replicas' number runs now: a request "
                    "is counted at its end.",
                    stacked=True,
                ),
            ),
        ),
    ),
)
