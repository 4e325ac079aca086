"""The dashboard of the operator: resources, visits, watches, leadership.

Belongs here: which panels there are and what they ask.
"""

from __future__ import annotations

from panels import OPERATOR, Dashboard, Panel, rate

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
