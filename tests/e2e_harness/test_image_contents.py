"""What goes into the image that is built without docker, decided by small functions; the whole runs in a cluster."""

from __future__ import annotations

import marshal
import shutil
import signal
import subprocess
import sys
import tarfile
import types
from pathlib import Path

import pytest

from trimode_e2e.errors import Broken, Missing
from trimode_e2e.image import base, containerfile, distributions, nvidia, packages
from trimode_e2e.image.layer import Layer

CONTAINERFILE = """\
ARG PYTHON=3.11
FROM python:${PYTHON}-slim-trixie AS first
ENV ONLY=first
USER 1
FROM python:${PYTHON}-slim-bookworm
LABEL a.title="two words" \\
      a.licence="Apache-2.0"
# ENV COMMENTED=1
ENV HOME=/tmp QUOTED="a b"
ENV LATER=1
WORKDIR /work
USER 5:6
CMD ["python", "-m", "thing"]
"""


def test_the_last_stage_is_read() -> None:
    assert containerfile.described(CONTAINERFILE) == containerfile.Described(
        suite="bookworm",
        environment={"HOME": "/tmp", "QUOTED": "a b", "LATER": "1"},
        folder="/work",
        user="5:6",
        command=["python", "-m", "thing"],
        labels={"a.title": "two words", "a.licence": "Apache-2.0"},
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("USER 5:6\n", ""), "0 lines with USER"),
        (("USER 5:6\n", "USER 5:6\nUSER 7\n"), "2 lines with USER"),
        (("slim-bookworm", "alpine"), "no slim image of Debian"),
    ],
)
def test_what_it_cannot_read_is_named(change: tuple[str, str], words: str) -> None:
    with pytest.raises(Broken, match=words):
        containerfile.described(CONTAINERFILE.replace(*change))


@pytest.mark.parametrize(
    ("packaged", "path"),
    [
        ("./", ""),
        ("./bin/sh", "usr/bin/sh"),
        ("./lib64/ld-linux-x86-64.so.2", "usr/lib64/ld-linux-x86-64.so.2"),
        ("./sbin/", "usr/sbin"),
        ("./usr/bin/env", "usr/bin/env"),
        ("./etc/libc.conf", "etc/libc.conf"),
        ("./library/x", "library/x"),
    ],
)
def test_packages_files_go_below_usr(packaged: str, path: str) -> None:
    assert base.merged(packaged) == path


@pytest.mark.parametrize(
    ("path", "unused"),
    [
        ("usr/share/man/man1/ls.1.gz", True),
        ("usr/share/man", True),
        ("usr/share/doc/bash/README", True),
        ("usr/share/doc/bash/copyright", False),
        ("usr/share/zoneinfo/Etc/UTC", False),
        ("usr/share/mandatory", False),
    ],
)
def test_manuals_are_left_out_and_licences_are_not(path: str, unused: bool) -> None:
    assert base.unused(path) is unused


@pytest.mark.parametrize(
    ("script", "moved"),
    [
        (b"#!/venv/bin/python\nimport x\n", b"#!/usr/local/bin/python3.11\nimport x\n"),
        (b"#!/venv/bin/python3.11\nimport x\n", b"#!/usr/local/bin/python3.11\nimport x\n"),
        (
            b"#!/bin/sh\n'''exec' /venv/bin/python \"$0\" \"$@\"\n' '''\n",
            b"#!/bin/sh\n'''exec' /usr/local/bin/python3.11 \"$0\" \"$@\"\n' '''\n",
        ),
    ],
)
def test_scripts_name_the_images_python(script: bytes, moved: bytes) -> None:
    assert distributions.moved(script, b"/venv/bin/python", b"/usr/local/bin/python3.11") == moved


def test_what_the_image_needs_is_found_with_what_that_needs() -> None:
    names = {each.name.lower() for each in distributions.needed(containerfile.requirements())}
    assert {"torch", "ray", "kopf", "uvloop", "msgspec", "pydantic-core", "sympy", "grpcio"} <= {
        name.replace("_", "-") for name in names
    }
    assert not {"pytest", "mypy", "matplotlib"} & names


def test_what_is_not_installed_is_named() -> None:
    with pytest.raises(Missing, match="no-such-distribution"):
        distributions.needed(["no-such-distribution>=1"])


@pytest.mark.parametrize(
    ("name", "left_out"),
    [("nvidia-cublas", True), ("cuda-bindings", True), ("triton", True), ("torch", False), ("tritonclient", False)],
)
def test_only_what_needs_a_gpu_is_left_out(name: str, left_out: bool) -> None:
    assert nvidia.left_out(name) is left_out


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_stand_in_loads_and_says_what_it_is_when_it_is_called(tmp_path: Path) -> None:
    library = tmp_path / "library.so"
    library.write_bytes(nvidia.compiled(["cublasCreate@libcublas.so.13", "ncclInit"]))
    for call in ("cublasCreate", "ncclInit"):
        program = (
            f"import ctypes; library = ctypes.CDLL({str(library)!r}); print('loaded', flush=True); library.{call}()"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.stdout == "loaded\n"
        assert "stand-ins" in done.stderr
        assert done.returncode == -signal.SIGABRT


def test_our_packages_are_there_with_bytecode_and_without_traces_of_the_tree(tmp_path: Path) -> None:
    archive = tmp_path / "layer.tar"
    with archive.open("wb") as out, Layer(out) as layer:
        packages.fill(layer)
    site = f"usr/local/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    with tarfile.open(archive) as tar:
        names = set(tar.getnames())
        for folder in containerfile.packages():
            assert f"{site}/{folder.name}/__init__.py" in names
        (bytecode,) = [name for name in names if "trimode_api/__pycache__/__init__." in name]
        code = marshal.loads(_read(tar, bytecode)[16:])
        assert _read(tar, "usr/local/bin/trimode").startswith(b"#!/usr/local/bin/python3")
    assert isinstance(code, types.CodeType)
    assert code.co_filename == f"/{site}/trimode_api/__init__.py"
    assert f"{site}/trimode_workers/tiny/model.safetensors" in names
    assert not [name for name in names if name.endswith((".pth", "direct_url.json", "RECORD"))]


def _read(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    assert file is not None
    return file.read()
