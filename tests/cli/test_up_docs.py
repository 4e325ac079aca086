"""The commands of docs/router.md about tenants and OpenTelemetry as they are written, by processes on this machine.

Ports are others, and `otelcol-contrib` is the collector's double, which is held to what the real one did.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trimode_e2e.control.plane import free_ports
from trimode_e2e.crds import ROOT
from trimode_e2e.pages import Block, blocks
from trimode_e2e.shell import Shell

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

BUDGET = 60
"""Requests of a minute, as the page has it."""
PORTS = ("8000", "8001", "4318")
GENAI = ("request.duration", "time_per_output_token", "time_to_first_token")
COST = re.compile(r"(\w+) \w+: ([\d.]+) s, ([\d.]+)")
ANSWERS = re.compile(r'trimode_router_answers_total\{.*tenant="(\w+)".*\} ([\d.]+)')
KEYS, FLEET, OTHER, OPENTELEMETRY, USED = [
    block
    for block in blocks(ROOT / "docs" / "router.md")
    if not block.needs and block.heading in ("Access", "Traces and logs", "Who used what")
]


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    folder = tmp_path_factory.mktemp("docs")
    (folder / "bin").mkdir()
    (folder / "bin" / "otelcol-contrib").write_text(f'#!/bin/sh\nexec {sys.executable} -m trimode_e2e.collector "$@"\n')
    (folder / "bin" / "otelcol-contrib").chmod(0o755)
    (folder / "examples").symlink_to(ROOT / "examples")
    path = f"{folder / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    running = Shell.start(folder, folder, {**os.environ, "PATH": path, "XDG_RUNTIME_DIR": str(folder), "NO_PROXY": "*"})
    yield running
    running.run("kill $(jobs -p); wait")
    running.stop()


@pytest.fixture
def run(shell: Shell) -> Callable[[Block], str]:
    """What a block prints; it has to end well."""
    ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))

    def run(block: Block) -> str:
        text = block.text
        for written, free in ports.items():
            text = text.replace(written, free)
        status, printed = shell.run(text, timeout_s=400)
        logs = "".join(each.read_text(errors="replace")[-2000:] for each in shell.folder.glob("*.log"))
        assert status == 0, f"docs/{block.place}: status {status}\n{text}{printed}{logs}"
        return printed

    return run


def test_commands_of_the_routers_page(run: Callable[[Block], str]) -> None:
    run(KEYS)
    begun = time.monotonic()
    answered = {status: int(count) for count, status in re.findall(r"^ *(\d+) (\d{3})$", run(FLEET), re.MULTILINE)}
    allowed = BUDGET * (1 + (time.monotonic() - begun) / 60)
    assert answered.keys() <= {"200", "429"}, answered
    assert sum(answered.values()) == 200
    assert 0.9 * BUDGET <= answered["200"] <= 1.1 * allowed + 2
    assert '"gpuSeconds"' in run(OTHER)
    kinds = [json.loads(f"{{{line}}}")["name"] for line in run(OPENTELEMETRY).splitlines() if line.startswith('"name"')]
    assert kinds == [f"gen_ai.server.{what}" for what in GENAI]
    lines = run(USED).splitlines()
    costs = [match.groups() for match in map(COST.fullmatch, lines) if match]
    assert {tenant for tenant, _, _ in costs} == {"acme", "ops"}
    for _, seconds, cost in costs:
        assert float(cost) == pytest.approx(float(seconds) / 3600 * 2.5, abs=2e-6)
    assert sum(float(seconds) for _, seconds, _ in costs) > 0
    whole = {match[1]: float(match[2]) for match in map(ANSWERS.fullmatch, lines) if match}
    assert whole.keys() == {"acme", "ops"}


def test_what_it_started_has_ended(shell: Shell) -> None:
    assert shell.run("jobs -r") == (0, "")
