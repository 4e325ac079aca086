"""The commands as a user meets them: exit status, stdout, stderr; nothing is started."""

import socket
from pathlib import Path

import pytest
import yaml

from trimode_cli.main import main

TINY = """
apiVersion: trimode.dev/v1alpha1
kind: NemotronDeployment
metadata: {name: NAME}
spec:
  model: {uri: "tiny://"}
  pools:
  - {name: flex, modes: [AR, SelfSpeculation]}
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good resource, and a runtime folder of its own."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    path = tmp_path / "d.yaml"
    path.write_text(TINY.replace("NAME", "nobody"))
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "--help")
    assert status == 0
    assert all(command in out for command in ("up", "apply", "chat", "bench", "eval", "crd", "version"))


@pytest.mark.parametrize("command", ["up", "apply", "chat", "bench", "eval", "crd", "version"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, command, "-h")
    assert status == 0
    assert f"trimode {command}" in out


def test_the_crd_is_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "crd")
    assert yaml.safe_load(out)["kind"] == "CustomResourceDefinition"


def test_the_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "version")
    assert out.startswith("trimode ")
    assert out.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("up",), "--file"),
        (("up", "-f", "none.yaml"), "none.yaml: No such file"),
        (("apply", "-f", "none.yaml"), "none.yaml: No such file"),
        (("up", "-f", "none.yaml", "--port", "70000"), "--port"),
        (("chat", "--url", "http://127.0.0.1:1"), "http://127.0.0.1:1: "),
        (("chat", "--mode", "Fast"), "--mode Fast"),
        (("chat", "--block-length", "8"), "--block-length needs --mode"),
        (("chat", "--mode", "AR", "--block-length", "8"), "takes none"),
        (("chat", "--url", "ftp://127.0.0.1"), "ftp://127.0.0.1"),
        (("bench", "--engine-only", "--ramp"), "--engine-only"),
        (("bench", "--out", "/dev/null/x"), "--out /dev/null/x"),
        (("bench", "--model", "tiny://"), "--engine-only"),
        (("bench", "--engine-only", "--draft-adapter", "x"), "--model"),
        (("bench", "--engine-only", "--model", "file:///nowhere"), "--model"),
        (("nonsense",), "nonsense"),
    ],
)
def test_bad_input_is_one_message_and_status_2(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert words in err
    assert "Traceback" not in err


def test_apply_without_an_up_says_what_to_do(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "apply", "-f", str(file))
    assert status == 2
    assert "no `trimode up` of 'nobody' runs" in err
    assert "trimode up -f" in err


def test_up_refuses_a_port_in_use_before_it_starts_anything(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        status, _, err = run(capsys, "up", "-f", str(file), "--port", str(taken.getsockname()[1]))
    assert status == 2
    assert "Address already in use" in err


def test_up_refuses_a_missing_model_folder(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(file.read_text().replace("tiny://", "file:///no/such/folder"))
    status, _, err = run(capsys, "up", "-f", str(file), "--port", "0")
    assert status == 2
    assert "there is no folder /no/such/folder" in err


def test_up_lists_all_problems_of_a_resource(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(file.read_text().replace("modes: [AR, SelfSpeculation]", "modes: [Fast], colour: red"))
    status, _, err = run(capsys, "up", "-f", str(file))
    assert status == 2
    assert "spec.pools[0].modes[0]" in err
    assert "spec.pools[0].colour: unknown field" in err
