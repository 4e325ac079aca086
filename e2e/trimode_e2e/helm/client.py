"""This side of the pipe to Helm's library: find a Python for it, start it, ask it.

Belongs here: the environment in the cache folder, the process, and what its answers mean.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from trimode_e2e.errors import Missing

PACKAGE = "helm-sdkpy==0.1.32"
OPTIONAL_APIS = ("policy/v1", "monitoring.coreos.com/v1")
_SETTINGS: dict[str, str] = {"HELM_DRIVER": "memory"}
_LIBRARY = Path(__file__).with_name("library.py")


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


class Helm:
    """The library in a process. `kubeconfig` None: a pretended cluster that takes everything, for rendering.

    Leave it with `close`, or use it as a context manager.
    """

    def __init__(self, python: Path, kubeconfig: Path | None = None) -> None:
        self._kubeconfig = kubeconfig
        environment = os.environ | (_SETTINGS if kubeconfig is None else {})
        self._process = subprocess.Popen(
            [python, "-I", _LIBRARY], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=30)

    def lint(self, chart: Path) -> int:
        """Helm's own lint: the severity of its worst finding. 0 none, 1 a hint, 2 a warning, 3 an error."""
        found = self._ask("lint", chart=str(chart))
        return max((message["Severity"] for message in found["Messages"] or ()), default=0)

    def render(
        self,
        chart: Path,
        values: Mapping[str, Any] | None = None,
        *,
        release: str = "trimode",
        namespace: str = "trimode-system",
        optional: Sequence[str] = OPTIONAL_APIS,
        version: str = "1.34.0",
    ) -> Rendered:
        """What an installation makes, in a pretended cluster of this version that has these optional APIs.

        Raises HelmError with Helm's words where it refuses.
        """
        return _rendered(
            self._ask(
                "render",
                chart=str(chart),
                values=dict(values or {}),
                release=release,
                namespace=namespace,
                optional=list(optional),
                version=version,
            )
        )

    def install(self, chart: Path, values: Mapping[str, Any], *, release: str, namespace: str) -> Rendered:
        """Install into the cluster of the kubeconfig, without waiting for pods."""
        return _rendered(
            self._in_cluster("install", chart=str(chart), values=dict(values), release=release, namespace=namespace)
        )

    def upgrade(self, chart: Path, values: Mapping[str, Any], *, release: str, namespace: str) -> Rendered:
        """Upgrade there to exactly these values, without waiting for pods."""
        return _rendered(
            self._in_cluster("upgrade", chart=str(chart), values=dict(values), release=release, namespace=namespace)
        )

    def uninstall(self, *, release: str, namespace: str) -> None:
        """Uninstall there; returns when everything is gone."""
        self._in_cluster("uninstall", release=release, namespace=namespace)

    def _in_cluster(self, job: str, **words: Any) -> Any:
        return self._ask(job, kubeconfig=str(self._kubeconfig), **words)

    def _ask(self, job: str, **words: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": job, **words}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or '{"error": "the library\'s process has ended"}')
        if "error" in answer:
            raise HelmError(answer["error"])
        return answer["result"]


def _rendered(release: Mapping[str, Any]) -> Rendered:
    return Rendered(
        objects=tuple(_documents(release["manifest"])),
        hooks=tuple(item for hook in release.get("hooks") or () for item in _documents(hook["manifest"])),
        notes=release["info"].get("notes", ""),
    )


def _documents(text: str) -> Iterator[dict[str, Any]]:
    return (item for item in yaml.safe_load_all(text) if item)


def helm_python() -> Path:
    """The interpreter that has the library; its environment is made in the cache folder the first time (135 MB).

    Raises Missing where no Python 3.12 or newer is found, or the package cannot be had.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = base / "trimode" / PACKAGE.replace("==", "-")
    python = folder / "bin" / "python"
    stamp = folder / ".made"
    if stamp.exists():
        return python
    folder.parent.mkdir(parents=True, exist_ok=True)
    for command in (
        [_new_enough(), "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", PACKAGE],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Missing(f"Helm's library: {' '.join(command)} failed: {done.stderr.strip()[-500:]}")
    stamp.touch()
    return python


def _new_enough() -> str:
    """A Python of at least 3.12 that starts: on the path, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser() / "versions"
    names = [f"python3.{minor}" for minor in (12, 13, 14)]
    on_path = [found for name in names if (found := shutil.which(name))]
    check = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))"
    for candidate in [*on_path, *map(str, sorted(pyenv.glob("3.1[2-9]*/bin/python")))]:
        if subprocess.run([candidate, "-c", check], capture_output=True).returncode == 0:
            return candidate
    raise Missing(
        "Helm's library (helm-sdkpy) needs Python 3.12 or newer beside the project's own: "
        "install one as python3.12 (apt, brew) or with `pyenv install 3.12`"
    )
