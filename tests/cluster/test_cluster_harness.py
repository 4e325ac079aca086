"""The harness's own decisions: what is built anew, what this machine lacks, what helm and kubectl are told."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from trimode_e2e.control import build, provide
from trimode_e2e.control.build import ALL, CLUSTER, OLDER, GoModule
from trimode_e2e.errors import Broken, Missing
from trimode_e2e.helm import Helm, HelmError
from trimode_e2e.kubectl import Kubectl


@pytest.fixture
def module(tmp_path: Path) -> GoModule:
    """A copy of the newest one's sources; the folder is absolute and so in the place of one below `e2e/`."""
    shutil.copytree(CLUSTER.path, tmp_path / "cluster")
    return GoModule(str(tmp_path / "cluster"), CLUSTER.programs, CLUSTER.stamped)


@pytest.mark.parametrize("name", ["go.mod", "go.sum", "coredns/main.go", "more/more.go"])
def test_other_sources_are_another_revision(module: GoModule, name: str) -> None:
    assert module.revision() == CLUSTER.revision()
    file = module.path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text((file.read_text() if file.exists() else "") + "\n")
    assert module.revision() != CLUSTER.revision()


def test_other_programs_are_another_revision() -> None:
    found = {each.revision() for each in (*ALL, GoModule("cluster", {}), GoModule("cluster", CLUSTER.programs))}
    assert len(found) == 4


def test_versions_are_read_from_the_pins() -> None:
    assert CLUSTER.version("k8s.io/kubernetes").startswith("v1.")
    assert OLDER.version("github.com/ray-project/kuberay/ray-operator").startswith("v1.")
    with pytest.raises(Missing, match=r"go\.mod does not pin k8s\.io/kuber"):
        CLUSTER.version("k8s.io/kuber")


def test_a_build_is_found_once_every_program_is_there(module: GoModule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(build.CACHE, str(module.path.parent / "cache"))
    assert build.built(module) is None
    folder = build.cache_folder() / f"{module.folder}-{module.revision()}"
    folder.mkdir(parents=True)
    for name in module.programs:
        assert build.built(module) is None
        (folder / name).touch()
    assert build.built(module) == folder


def test_what_is_missing_is_told_with_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(provide.KUBECONFIG, raising=False)
    monkeypatch.delenv(provide.ENVTEST, raising=False)
    monkeypatch.setenv(build.CACHE, str(tmp_path))
    with pytest.raises(Missing, match="make cluster-programs"), provide.paper():
        pass
    monkeypatch.setenv(provide.ENVTEST, str(tmp_path))
    with pytest.raises(Missing, match="has no etcd"), provide.paper():
        pass
    with pytest.raises(Missing, match="holds no kubelet"), provide.real():
        pass
    monkeypatch.setenv(provide.KUBECONFIG, str(tmp_path / "nothing"))
    with pytest.raises(Missing, match="which is no file"), provide.paper():
        pass
    with pytest.raises(Missing, match="names one cluster"), provide.paper("oldest"):
        pass


def script(folder: Path, text: str) -> Path:
    """A program of that text."""
    file = folder / "program"
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


def test_a_failing_program_is_told_in_its_own_words(tmp_path: Path) -> None:
    failing = script(tmp_path, "echo 'Error: no such chart' >&2; exit 1")
    with pytest.raises(HelmError, match=r"^no such chart$"):
        Helm(failing)("install")
    with pytest.raises(Broken, match=r"^kubectl get nd: Error: no such chart$"):
        Kubectl(failing, tmp_path / "kubeconfig", tmp_path)("get", "nd")


@pytest.mark.parametrize(("said", "severity"), [("", 0), ("[INFO] icon", 1), ("[WARNING] x\\n[INFO] y", 2)])
def test_the_worst_finding_of_a_lint_counts(tmp_path: Path, said: str, severity: int) -> None:
    assert Helm(script(tmp_path, f"printf '==> Linting\\n{said}\\n'")).lint(tmp_path) == severity


def test_helm_renders_without_any_cluster_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/a/cluster/of/mine")
    assert Helm(script(tmp_path, "echo $KUBECONFIG"))("version").strip() == "/nonexistent"
