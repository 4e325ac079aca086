"""helm, as a person would call it.

Belongs here: finding the program, running it, and reading what it makes of a chart.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trimode_e2e.control.build import CLUSTER, built
from trimode_e2e.errors import Missing

TIMEOUT_S = 600.0
SMALL_VALUES: Mapping[str, Any] = {
    # Requests that fit a node of two cores; limits are the chart's own.
    "settings": {
        "head": {"cpu": "100m", "memory": "2Gi"},
        "router": {"cpu": "50m", "memory": "512Mi"},
        "autoscaler": {"cpu": "20m", "memory": "512Mi"},
    },
    "resources": {"requests": {"cpu": "20m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}},
}
"""Of our chart, for the node of the tests."""
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class HelmError(Exception):
    """Helm refused: the chart, its values, or the cluster. The text is Helm's own."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a chart becomes: objects in Helm's order, hooks (tests among them) apart, and the notes."""

    objects: tuple[dict[str, Any], ...]
    hooks: tuple[dict[str, Any], ...]
    notes: str

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [item for item in self.objects if item["kind"] == kind]

    def one(self, kind: str, name: str | None = None) -> dict[str, Any]:
        """The only object of the kind, or of the kind and name."""
        (found,) = [item for item in self.of(kind) if name in (None, item["metadata"]["name"])]
        return found


@dataclass(frozen=True, slots=True)
class Helm:
    """One helm; `kubeconfig` None renders only."""

    program: Path
    kubeconfig: Path | None = None

    def __call__(self, *words: str) -> str:
        """What it prints. Raises HelmError with its words where it fails."""
        with tempfile.TemporaryDirectory(prefix="trimode-helm-") as home:
            own = {f"HELM_{name}_HOME": f"{home}/{name.lower()}" for name in ("CACHE", "CONFIG", "DATA")}
            cluster = {"KUBECONFIG": str(self.kubeconfig or "/nonexistent")}
            done = subprocess.run(
                [str(self.program), *words], env={**os.environ, **own, **cluster}, capture_output=True, text=True,
                timeout=TIMEOUT_S,
            )  # fmt: skip
        if done.returncode:
            raise HelmError(done.stderr.strip().removeprefix("Error: "))
        return done.stdout

    def lint(self, chart: Path) -> int:
        """The severity of the worst finding: 0 none, 1 a hint, 2 a warning. Raises HelmError where it is an error."""
        found = re.findall(r"^\[(INFO|WARNING)\]", self("lint", str(chart)), re.MULTILINE)
        return max((("INFO", "WARNING").index(each) + 1 for each in found), default=0)

    def render(
        self,
        chart: Path,
        values: Mapping[str, Any] | None = None,
        *,
        release: str = "trimode",
        namespace: str = "trimode-system",
    ) -> Rendered:
        """What an installation makes, without any cluster."""
        return self._release("install", chart, values or {}, release, namespace, "--dry-run=client")

    def install(self, chart: Path, values: Mapping[str, Any], *words: str, release: str, namespace: str) -> Rendered:
        """Install into the cluster. Does not wait for pods unless `words` have `--wait`."""
        return self._release("install", chart, values, release, namespace, *words)

    def upgrade(self, chart: Path, values: Mapping[str, Any], *words: str, release: str, namespace: str) -> Rendered:
        """Upgrade there to exactly these values."""
        return self._release("upgrade", chart, values, release, namespace, "--reset-values", *words)

    def uninstall(self, *words: str, release: str, namespace: str) -> None:
        """Uninstall there; returns when what the chart made is gone."""
        self("uninstall", release, "--namespace", namespace, "--wait", *words)

    def _release(
        self, job: str, chart: Path, values: Mapping[str, Any], release: str, namespace: str, *words: str
    ) -> Rendered:
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(dict(values), file)
            file.flush()
            place = ("--namespace", namespace, "--values", file.name, "--output", "json")
            told = json.loads(self(job, release, str(chart), *place, *words))
        return Rendered(
            objects=tuple(_documents(told["manifest"])),
            hooks=tuple(item for hook in told.get("hooks") or () for item in _documents(hook["manifest"])),
            notes=told["info"].get("notes", ""),
        )


def helm_program() -> Path:
    """The built one, or the one on the path. Raises Missing where there is neither."""
    if folder := built(CLUSTER):
        return folder / "helm"
    if on_path := shutil.which("helm"):
        return Path(on_path)
    raise Missing("helm is neither built nor on the path: run `make cluster-programs`")


def _documents(text: str) -> Iterator[dict[str, Any]]:
    return (item for item in yaml.load_all(text, Loader=_LOADER) if item)
