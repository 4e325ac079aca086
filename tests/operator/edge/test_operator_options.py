"""What a process is told at its start, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimode_operator.__main__ import main
from trimode_operator.errors import BadStart
from trimode_operator.process.options import read_options


def test_defaults() -> None:
    options = read_options([], {"POD_NAME": "operator-0", "POD_NAMESPACE": "trimode-system"})
    assert options.identity == "operator-0"
    assert (options.lease_namespace, options.lease) == ("trimode-system", "trimode-operator")
    assert options.namespaces == ()
    assert (options.host, options.metrics_port, options.health_port) == ("0.0.0.0", 8080, 8081)


def test_namespaces_are_named_once_each() -> None:
    options = read_options(["--namespace", "a", "--namespace=b", "--namespace", "a"], {})
    assert options.namespaces == ("a", "b")
    assert options.lease_namespace == "a"
    assert options.identity


def test_settings_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("image: registry/trimode:1\nnodeSelector: {gpu: h100}\n")
    options = read_options(["--settings", str(file)], {})
    assert options.settings.image == "registry/trimode:1"
    assert options.settings.node_selector == {"gpu": "h100"}


@pytest.mark.parametrize(
    ("arguments", "text", "words"),
    [
        (["--namespace", "Bad_Name"], None, "namespaces[0]"),
        (["--health-port", "70000"], None, "health_port"),
        (["--settings", "FILE"], "colour: red\nrayVersion: latest\n", "rayVersion"),
        (["--settings", "FILE"], "colour: red\nrayVersion: latest\n", "colour: unknown field"),
        (["--settings", "FILE"], "a: [", "not YAML"),
        (["--settings", "nowhere.yaml"], None, "No such file"),
    ],
)
def test_what_is_wrong_is_named(arguments: list[str], text: str | None, words: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(BadStart) as caught:
        read_options([str(file) if word == "FILE" else word for word in arguments], {})
    assert words in str(caught.value)


def test_the_process_says_what_is_wrong_and_exits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert main(["--health-port=-1"]) == 2
    assert "health_port" in capsys.readouterr().err
