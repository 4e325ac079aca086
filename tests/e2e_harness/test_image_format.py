"""Layers, where they are kept, and how they reach containerd."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trimode_e2e.errors import Broken
from trimode_e2e.image.layer import Layer
from trimode_e2e.image.layout import Image, archive, assemble, load
from trimode_e2e.image.store import Store, locked


def quiet(_: str) -> None:
    """Progress is not looked at."""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    with locked(tmp_path / "store", quiet) as store:
        return store


@pytest.fixture
def image(store: Store) -> Image:
    layers = [store.write(_writing(name, b"x" * 20_000)) for name in ("one", "two")]
    return assemble(store, "docker.io/library/thing:1", {"Cmd": ["/one"]}, layers)


def test_everything_belongs_to_root_and_may_be_read(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"text")
    source.chmod(0o600)
    os.utime(source, (0, 1234.9))
    program = tmp_path / "program"
    program.write_bytes(b"binary")
    program.chmod(0o700)
    out = io.BytesIO()
    with Layer(out) as layer:
        layer.file("a/b/text", source)
        layer.file("a/program", program)
        layer.file("a/program", source)  # what is there stays
        layer.link("a/link", "program")
        layer.folder("tmp", 0o1777)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        found = {each.name: (each.type, each.mode, each.uid, each.gid, each.mtime) for each in tar}
        assert len(tar.getnames()) == len(found)
    assert found == {
        "a": (tarfile.DIRTYPE, 0o755, 0, 0, 0),
        "a/b": (tarfile.DIRTYPE, 0o755, 0, 0, 0),
        "a/b/text": (tarfile.REGTYPE, 0o644, 0, 0, 1234),
        "a/program": (tarfile.REGTYPE, 0o755, 0, 0, int(program.stat().st_mtime)),
        "a/link": (tarfile.SYMTYPE, 0o777, 0, 0, 0),
        "tmp": (tarfile.DIRTYPE, 0o1777, 0, 0, 0),
    }
    assert layer.digest == hashlib.sha256(out.getvalue()).hexdigest()


def test_a_layer_is_made_once_for_a_key(store: Store) -> None:
    made = [store.layer("name", key, _writing(key, key.encode())) for key in ("a", "a", "b")]
    assert made[0] == made[1]
    assert made[1] != made[2]
    assert made[0].digest == hashlib.sha256(made[0].path.read_bytes()).hexdigest()
    untouched = store.layer("name", "b", lambda _: pytest.fail("made again"))
    assert untouched == made[2]


def test_a_layer_that_is_gone_is_made_again(store: Store) -> None:
    first = store.layer("name", "a", _writing("file", b"text"))
    first.path.unlink()
    assert store.layer("name", "a", _writing("file", b"text")) == first
    assert first.path.exists()


def test_what_nothing_asked_for_goes_and_what_was_asked_for_stays(store: Store) -> None:
    used, unused = (store.layer(name, "a", _writing(name, b"text")) for name in ("used", "unused"))
    hours_ago = time.time() - 7200
    for blob in (used, unused):
        os.utime(blob.path, (hours_ago, hours_ago))
    store.layer("used", "a", lambda _: pytest.fail("made again"))
    store.drop_unused()
    assert used.path.exists()
    assert not unused.path.exists()


def test_a_layer_that_failed_is_not_kept(store: Store) -> None:
    def fail(layer: Layer) -> None:
        layer.data("file", b"text")
        raise Broken("on purpose")

    with pytest.raises(Broken, match="on purpose"):
        store.layer("name", "a", fail)
    store.layer("name", "a", _writing("file", b"whole"))
    assert [path.name for path in (store.folder / "layers").iterdir()] == ["name-a"]


def test_the_archive_leads_from_the_name_to_the_layers(image: Image) -> None:
    contents = _unpacked(archive(image))
    (descriptor,) = json.loads(contents["index.json"])["manifests"]
    assert descriptor["annotations"]["io.containerd.image.name"] == "docker.io/library/thing:1"
    manifest = json.loads(_blob(contents, descriptor))
    config = json.loads(_blob(contents, manifest["config"]))
    digests = [f"sha256:{layer.digest}" for layer in image.layers]
    assert [layer["digest"] for layer in manifest["layers"]] == config["rootfs"]["diff_ids"] == digests
    assert config["config"] == {"Cmd": ["/one"]}
    assert len(contents) == 4  # the layers themselves go another way


def test_layers_are_linked_into_containerds_content_and_claimed(image: Image, tmp_path: Path) -> None:
    load(image, _ctr(tmp_path, 0), tmp_path / "root")
    for layer in image.layers:
        linked = tmp_path / "root/io.containerd.content.v1.content/blobs/sha256" / layer.digest
        assert linked.samefile(layer.path)
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert [call["words"][:2] for call in calls] == [["content", "ingest"]] * 2 + [["images", "import"]]
    for layer, call in zip(image.layers, calls, strict=False):
        assert {f"sha256:{layer.digest}", str(layer.size)} <= set(call["words"])
    assert calls[-1]["bytes"] == len(archive(image))


def test_a_refusal_is_told_in_containerds_words(image: Image, tmp_path: Path) -> None:
    with pytest.raises(Broken, match="no space"):
        load(image, _ctr(tmp_path, 1), tmp_path / "root")


def _writing(name: str, content: bytes) -> Callable[[Layer], None]:
    return lambda layer: layer.data(name, content)


def _ctr(folder: Path, status: int) -> list[str]:
    """A program in place of ctr that notes its words and how much it was given."""
    program = (
        "import json, sys\n"
        "call = {'words': sys.argv[1:], 'bytes': len(sys.stdin.buffer.read())}\n"
        f"open({str(folder / 'calls')!r}, 'a').write(json.dumps(call) + '\\n')\n"
        f"print('no space'); sys.exit({status})\n"
    )
    return [sys.executable, "-c", program]


def _unpacked(content: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        found = {each.name: tar.extractfile(each) for each in tar}
        return {name: file.read() for name, file in found.items() if file is not None}


def _blob(contents: dict[str, bytes], descriptor: dict[str, str]) -> bytes:
    content = contents[f"blobs/{descriptor['digest'].replace(':', '/')}"]
    assert hashlib.sha256(content).hexdigest() == descriptor["digest"].removeprefix("sha256:")
    assert len(content) == int(descriptor["size"])
    return content
