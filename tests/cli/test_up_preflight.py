"""What is looked at before anything is started."""

import io
import socket
from pathlib import Path

import pytest
from rich.console import Console

from trimode_api.resource import NemotronDeployment
from trimode_api.spec import Router
from trimode_lab.doubles.hub import StandInHub
from trimode_local.download import shown
from trimode_local.entry import Entry
from trimode_local.errors import BadInput
from trimode_local.plan import PoolPlan
from trimode_local.preflight import check_machine, check_port, model_folder, tiny_folder, without_secrets


def resource(uri: str) -> NemotronDeployment:
    return NemotronDeployment.parse(
        {
            "apiVersion": "trimode.dev/v1alpha1",
            "kind": "NemotronDeployment",
            "metadata": {"name": "tiny"},
            "spec": {"model": {"uri": uri}, "pools": [{"name": "flex", "modes": ["AR"]}]},
        }
    )


def pool(cores: float = 1, gpus: int = 0, memory: int = 0, replicas: int = 1) -> PoolPlan:
    return PoolPlan("flex", replicas, replicas, cores, gpus, memory)


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=f"cannot listen on 127.0.0.1:{port}: Address already in use") as error:
            check_port("127.0.0.1", port)
    assert "--port" in error.value.hint
    check_port("127.0.0.1", port)


def test_a_host_that_is_none_is_named() -> None:
    with pytest.raises(BadInput, match="--host"):
        check_port("no such host", 0)


def test_a_model_folder_is_a_folder_with_a_model(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no folder"):
        model_folder(resource(f"file://{tmp_path}/none"))
    with pytest.raises(BadInput, match=r"holds no config.json, no tokenizer.json, no \*.safetensors"):
        model_folder(resource(f"file://{tmp_path}"))
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / name).touch()
    assert model_folder(resource(f"file://{tmp_path}")) == tmp_path


def test_a_folder_with_a_space_in_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "a model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).touch()
    assert model_folder(resource(f"file://{tmp_path}/a%20model")) == folder


def test_the_packaged_model_lies_in_the_package() -> None:
    assert tiny_folder().name == "tiny"


def test_too_many_gpus_is_an_error_too_many_cores_a_warning() -> None:
    assert check_machine([pool()], gpus=0, cores=2, memory_bytes=1) == ()
    with pytest.raises(BadInput, match="ask for 4 GPUs, this machine has 3"):
        check_machine([pool(gpus=2, replicas=2)], gpus=3, cores=2, memory_bytes=1)
    warnings = check_machine([pool(cores=2, replicas=2, memory=1 << 30)], gpus=0, cores=2, memory_bytes=1 << 30)
    assert [warning.partition(",")[0] for warning in warnings] == [
        "the pools ask for 4 cores",
        "the pools ask for 2048 MiB of memory",
    ]


def test_a_hub_is_downloaded_from_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {path.name: path.read_bytes() for path in tiny_folder().iterdir() if path.is_file()}
    with StandInHub("nvidia/Tiny", files) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        said, quiet = io.StringIO(), io.StringIO()
        with shown(Console(file=said)) as told:
            folder = model_folder(resource("hf://nvidia/Tiny"), told)
        with shown(Console(file=quiet)) as told:
            assert model_folder(resource("hf://nvidia/Tiny"), told) == folder
        with pytest.raises(BadInput, match=r"spec\.model\.uri: model hf://nvidia/Small@main: .*no such repository"):
            model_folder(resource("hf://nvidia/Small"))
    assert (folder / "model.safetensors").read_bytes() == files["model.safetensors"]
    lines = said.getvalue().splitlines()
    assert lines[-1].startswith("downloading model.safetensors: 100 % of")
    assert len(lines) > 1
    assert quiet.getvalue() == ""


def test_a_bar_on_a_terminal_only_where_something_is_downloaded() -> None:
    def seen(*steps: int) -> str:
        screen = io.StringIO()
        with shown(Console(file=screen, force_terminal=True, width=100)) as told:
            for step in steps:
                told("model.safetensors", step, 1000)
        return screen.getvalue()

    assert "model.safetensors" in seen(10, 1000)
    assert "model.safetensors" not in seen(1000)


SECURED = Router.model_validate({"auth": {"secretName": "api-keys"}, "tls": {"secretName": "web"}})


def test_secrets_of_a_cluster_are_files_here_and_their_lack_is_told() -> None:
    entry = Entry("127.0.0.1", 8000)
    keys, certificate = without_secrets(SECURED, entry)
    assert "spec.router.auth" in keys
    assert "'api-keys'" in keys
    assert "--keys FILE" in keys
    assert "spec.router.tls" in certificate
    assert "--tls-certificate FILE" in certificate
    assert "ANYONE ON THE NETWORK" in without_secrets(SECURED, Entry("0.0.0.0", 8000, anyone=True))[0]
    assert without_secrets(SECURED, Entry("127.0.0.1", 8000, keys="k", certificate="c")) == ()
    assert without_secrets(Router(), entry) == ()


KEYS = '{"tenants": [{"name": "a"}], "keys": [{"tenant": "a", "sha256": "%s"}]}' % ("0" * 64)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (Entry("0.0.0.0", 8000), "--keys FILE, or --anyone"),
        (Entry("127.0.0.1", 8000, keys="none"), "--keys none: No such file"),
        (Entry("127.0.0.1", 8000, keys="bad"), "--keys bad: .*sha256"),
        (Entry("127.0.0.1", 8000, certificate="none"), "--tls-certificate none: no such file"),
        (Entry("127.0.0.1", 8000, certificate="good"), "--tls-certificate good with good: not PEM"),
        (Entry("127.0.0.1", 8000, certificate_key="good"), "goes with --tls-certificate"),
    ],
)
def test_a_bad_way_in_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: Entry, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good").write_text(KEYS)
    (tmp_path / "bad").write_text(KEYS.replace("0" * 64, "tm-the-key-itself"))
    with pytest.raises(BadInput, match=words) as told:
        entry.check()
    assert "tm-the-key-itself" not in str(told.value)
    Entry("127.0.0.1", 8000).check()
    Entry("0.0.0.0", 8000, keys="good").check()
    Entry("0.0.0.0", 8000, anyone=True).check()
    assert Entry("127.0.0.1", 8000, keys="good").fields()["keys_file"] == str(tmp_path / "good")


def test_the_edge_is_the_resources_unless_the_command_line_names_pages() -> None:
    of_resource = Router.model_validate({"corsOrigins": ["https://a.example"], "idleSeconds": 620}).edge()
    left = of_resource | Entry("127.0.0.1", 8000, allowed_hosts=("web.example",)).fields()
    assert (left["cors_origins"], left["idle_seconds"]) == (("https://a.example",), 620)
    assert left["allowed_hosts"] == ("web.example",)
    named = of_resource | Entry("127.0.0.1", 8000, cors_origins=("*",)).fields()
    assert (named["cors_origins"], named["idle_seconds"]) == (("*",), 620)
