"""Alerts and dashboards ask for metrics and labels that trimode really has, and link to headings that exist."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from trimode_api.fleet import FleetView
from trimode_api.wire import PointReport
from trimode_e2e import promtool
from trimode_e2e.errors import Missing
from trimode_e2e.helm import Rendered
from trimode_operator.metrics import Metrics as OperatorMetrics
from trimode_router.telemetry.metrics import Metrics as RouterMetrics

KEDA = Path(__file__).parents[2] / "examples" / "scaling" / "keda.yaml"
SCRAPED = {"namespace", "job", "pod", "instance"}
"""Labels that Prometheus adds to every series that it scrapes by a ServiceMonitor."""


def known_series() -> dict[str, set[str]]:
    """Every series that the router and the operator expose, with its labels, read off their own expositions."""
    router, operator = RouterMetrics(), OperatorMetrics()
    operator.count_resources([{"Ready": "True"}])
    for metrics in (router, operator):
        for metric in vars(metrics).values():
            if names := getattr(metric, "_labelnames", ()):
                metric.labels(*["x"] * len(names))
    texts = [router.text(a_view()).decode(), operator.text().decode()]
    found: dict[str, set[str]] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


def a_view() -> FleetView:
    """A fleet of one replica, with something in every list."""
    point = PointReport(point="AR", cycle_seconds=1, tokens_per_cycle=1, tokens_per_second=1, cycles=1, tokens=1)
    replica = {
        "replica_id": "r",
        "pool": "p",
        "url": "http://r",
        "ready": True,
        "draining": False,
        "freshness": "Fresh",
        "cooling": False,
        "age_seconds": 0,
        "in_flight": 0,
        "running": 0,
        "waiting": 0,
        "max_running": 1,
        "queued_prompt_tokens": 0,
        "cached_tokens": 0,
        "capacity_tokens": 1,
        "point": "AR",
        "decision": {"point": "AR", "reason": "Kept", "age_seconds": 0},
        "allowed_points": ["AR"],
        "points": [point.model_dump()],
        "switches": 0,
        "preemptions": 0,
        "tokens_per_second": 0,
        "policy_version": 1,
    }
    return FleetView.model_validate(
        {
            "name": "n",
            "model": "m",
            "time": 0,
            "policy_version": 1,
            "default_tier": "t",
            "tiers": [],
            "switching": {"margin_percent": 5, "min_dwell_milliseconds": 0, "fallback": {}},
            "pools": [
                {
                    "name": "p",
                    "points": [],
                    "replicas": 1,
                    "ready": 1,
                    "running": 0,
                    "waiting": 0,
                    "tokens_per_second": 0,
                    "shares": {},
                }
            ],
            "replicas": [replica],
            "router": {
                "in_flight": 0,
                "queued": 0,
                "oldest_wait_seconds": 0,
                "finished_total": 0,
                "refused_total": 0,
                "draining": False,
            },
            "decisions": [],
            "refusals": [],
        }
    )


@pytest.fixture(scope="module")
def series() -> dict[str, set[str]]:
    return known_series()


def alerts(chart: Path) -> list[dict[str, Any]]:
    groups = yaml.safe_load((chart / "files" / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def questions(chart: Path) -> Iterator[tuple[str, str]]:
    """(where, PromQL) of everything that the chart and the example for KEDA ask Prometheus."""
    for rule in alerts(chart):
        yield rule["alert"], rule["expr"]
    for path in sorted((chart / "dashboards").glob("*.json")):
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                yield f"{path.name}: {panel['title']}", target["expr"].replace("$__rate_interval", "1m")
        for variable in board["templating"]["list"][1:]:
            match = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
            assert match is not None
            yield f"{path.name}: ${variable['name']}", f"sum by ({match[2]}) ({match[1]})"
    for trigger in yaml.safe_load(KEDA.read_text())["spec"]["triggers"]:
        yield KEDA.name, trigger["metadata"]["query"]


def selectors(node: Any) -> Iterator[Any]:
    """The vector selectors in a parsed question."""
    if isinstance(node, promql.VectorSelector):
        yield node
    elif isinstance(node, promql.MatrixSelector):
        yield node.vector_selector
    elif isinstance(node, promql.BinaryExpr):
        yield from selectors(node.lhs)
        yield from selectors(node.rhs)
    elif isinstance(node, promql.Call):
        for argument in node.args:
            yield from selectors(argument)
    elif not isinstance(node, promql.NumberLiteral):
        yield from selectors(node.expr)


def grouped(node: Any) -> Iterator[tuple[set[str], Any]]:
    """(labels, what is aggregated) of every aggregation."""
    if isinstance(node, promql.AggregateExpr):
        yield set(node.modifier.labels) if node.modifier is not None else set(), node.expr
        yield from grouped(node.expr)
    elif isinstance(node, promql.BinaryExpr):
        yield from grouped(node.lhs)
        yield from grouped(node.rhs)
    elif isinstance(node, promql.Call):
        for argument in node.args:
            yield from grouped(argument)
    elif isinstance(node, promql.ParenExpr):
        yield from grouped(node.expr)


def test_every_metric_and_label_asked_for_exists(chart: Path, series: dict[str, set[str]]) -> None:
    asked = list(questions(chart))
    assert len(asked) > 40
    for where, question in asked:
        tree = promql.parse(question)
        used = list(selectors(tree))
        assert used, where
        for selector in used:
            assert selector.name in series, f"{where}: nobody exposes {selector.name}"
            named = {matcher.name for matcher in selector.matchers.matchers}
            assert named <= series[selector.name] | SCRAPED, f"{where}: {selector.name} has no {named}"
        for labels, inner in grouped(tree):
            known = set.union(*(series[selector.name] for selector in selectors(inner))) | SCRAPED
            assert labels <= known, f"{where}: no label {labels - known}"


def test_a_wrong_metric_would_be_found(series: dict[str, set[str]]) -> None:
    (selector,) = selectors(promql.parse('sum by (tier) (rate(trimode_router_request_total{tier="a"}[5m]))'))
    assert selector.name not in series


def test_legends_name_labels_that_the_question_keeps(chart: Path) -> None:
    for path in sorted((chart / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                kept = next(grouped(promql.parse(target["expr"].replace("$__rate_interval", "1m"))), None)
                wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                if kept is not None:
                    assert wanted <= kept[0] | SCRAPED, f"{path.name}: {panel['title']}"


def anchors(page: Path) -> set[str]:
    """The anchors of a Markdown page's headings, as they are made from the text."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_alerts_link_to_the_runbook(chart: Path, everything: Rendered) -> None:
    known = anchors(chart.parents[1] / "docs" / "runbook.md")
    names = [rule["alert"] for rule in alerts(chart)]
    assert len(set(names)) == len(names)
    for rule in alerts(chart):
        link = rule["annotations"]["runbook_url"]
        assert link == f"#{rule['alert'].lower()}"
        assert link[1:] in known, f"docs/runbook.md has no heading {rule['alert']}"
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert {"summary", "description"} <= rule["annotations"].keys()
    rendered = [rule for group in everything.one("PrometheusRule")["spec"]["groups"] for rule in group["rules"]]
    assert [rule["alert"] for rule in rendered] == names
    for rule in rendered:
        assert rule["annotations"]["runbook_url"].startswith("https://example.com/trimode/runbook#trimode")


def test_dashboards_are_what_grafana_reads(everything: Rendered) -> None:
    boards = [item for item in everything.of("ConfigMap") if "dashboard" in item["metadata"]["name"]]
    assert len(boards) == 2
    for item in boards:
        assert item["metadata"]["labels"]["grafana_dashboard"] == "yes"
        assert item["metadata"]["annotations"] == {"grafana_folder": "Serving"}
        (text,) = item["data"].values()
        board = json.loads(text)
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids)
        assert {"uid", "title", "templating", "panels"} <= board.keys()
        places = [panel["gridPos"] for panel in board["panels"]]
        assert all(place["x"] + place["w"] <= 24 for place in places)


def test_alerts_fire_when_they_should(chart: Path) -> None:
    try:
        tool = promtool.find()
    except Missing as missing:
        pytest.skip(str(missing))
    cases = Path(__file__).with_name("alerts.test.yaml")
    checked = subprocess.run([tool, "check", "rules", chart / "files" / "alerts.yaml"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = subprocess.run([tool, "test", "rules", cases], capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout + tested.stderr
