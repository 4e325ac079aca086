"""Build a control plane from Debian's source package of Kubernetes, once, into a cache folder.

Belongs here: the steps of the build. They take about five minutes on two cores; a second call finds the result.
Kubernetes is built in Go's GOPATH mode out of its own vendor folder, so nothing else is fetched.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trimode_e2e.control.debian import Debian, unpack
from trimode_e2e.control.programs import run
from trimode_e2e.errors import Broken

CACHE = "TRIMODE_CONTROL_PLANE_CACHE"
SUITE = "bookworm"
RELEASE = "1.20.2"
REVISION = f"{RELEASE}-2"
"""Of what is built here: changes whenever the same sources would give other binaries."""

COMMANDS = ("kube-apiserver", "kube-controller-manager")
NODE_COMMANDS = ("kube-scheduler", "kubelet", "kube-proxy")

_BINARY_PACKAGES = ("golang-1.19-go", "golang-1.19-src", "etcd-server", "golang-github-modern-go-reflect2-dev")
_GO_ROOT = "usr/lib/go-1.19"
_TAGS = "providerless,dockerless"
"""Without the cloud providers and docker: with them the build takes three times as long."""

_VENDOR = "k8s.io/kubernetes/vendor"
_VERSION_PACKAGES = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
_VERSION = {
    "gitVersion": f"v{RELEASE}",
    "gitMajor": "1",
    "gitMinor": "20",
    "gitCommit": "debian",
    "gitTreeState": "archive",
    "buildDate": "2021-01-13T00:00:00Z",
}
_NO_OPENAPI = ("/code-generator/", "/sample-apiserver/", "/test/")
_TAKES_EMPTY_FOR_NULL = (
    "if data == nil || reflect.DeepEqual(reflect.Zero(reflect.TypeOf(data)), reflect.ValueOf(data)) {"
)
_MARK = "// +k8s:openapi-gen="

Say = Callable[[str], None]
"""Told of progress, one line at a time."""


def cache_folder() -> Path:
    """TRIMODE_CONTROL_PLANE_CACHE, else below XDG_CACHE_HOME, else below ~/.cache."""
    if chosen := os.environ.get(CACHE):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "trimode" / "control-plane"


def built(commands: tuple[str, ...] = COMMANDS) -> Path | None:
    """The folder with the finished binaries, if all of them are there."""
    folder = cache_folder() / REVISION / "bin"
    return folder if all((folder / name).exists() for name in ("etcd", *commands)) else None


def build(say: Say, commands: tuple[str, ...] = COMMANDS) -> Path:
    """The folder with the binaries, built first where they are missing. Raises Missing and Broken.

    One build at a time: a second one waits for the first and takes its result.
    """
    root = cache_folder() / REVISION
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / "lock", say):
        if found := built(commands):
            return found
        _Build(root, _timed(say)).make(tuple(name for name in commands if not (root / "bin" / name).exists()))
    found = built(commands)
    if found is None:
        raise Broken(f"the build left no binaries in {root}")
    return found


@dataclass(frozen=True, slots=True)
class _Build:
    root: Path
    say: Say

    def make(self, commands: tuple[str, ...]) -> None:
        say = self.say
        say(f"building Kubernetes {RELEASE} from Debian's source package into {self.root} (about five minutes)")
        archive = self._fetch()
        say("downloaded")
        shutil.rmtree(self._source.parent, ignore_errors=True)
        self._source.parent.mkdir(parents=True)
        run(["tar", "-xf", str(archive), "-C", str(self._source.parent)])
        self._source.rename(self._tree)
        self._mend_reflect2()
        self._mend_validation()
        say("unpacked")
        self._generate_openapi()
        say("OpenAPI definitions generated")
        for name in commands:
            self._compile(name)
            say(f"{name} built")
        self._finish("etcd", self._packages / "usr/bin/etcd")
        shutil.rmtree(self._work)

    @property
    def _work(self) -> Path:
        return self.root / "work"

    @property
    def _packages(self) -> Path:
        return self._work / "packages"

    @property
    def _source(self) -> Path:
        return self._work / "gopath" / "src" / "k8s.io" / f"kubernetes-{RELEASE}"

    @property
    def _tree(self) -> Path:
        """The source under the name by which Go knows it."""
        return self._source.with_name("kubernetes")

    def _fetch(self) -> Path:
        debian = Debian(SUITE, self._work / "apt")
        debian.prepare()
        unpack(debian.download(self._work / "debs", *_BINARY_PACKAGES), self._packages)
        return debian.download_source(self._work / "archive", "kubernetes")

    def _mend_reflect2(self) -> None:
        """Replace the vendored reflect2 by Debian's: the old one crashes under Go 1.19 on the first custom resource."""
        vendored = self._tree / "vendor/github.com/modern-go/reflect2"
        shutil.rmtree(vendored)
        vendored.mkdir()
        debians = self._packages / "usr/share/gocode/src/github.com/modern-go/reflect2"
        for file in (*debians.glob("*.go"), *debians.glob("*.s")):
            if not file.name.endswith("_test.go"):
                shutil.copy(file, vendored)

    def _mend_validation(self) -> None:
        """Let empty strings be strings: under Go 1.19 the comparison below holds for them, and they count as null."""
        file = self._tree / "vendor/k8s.io/kube-openapi/pkg/validation/validate/type.go"
        text = file.read_text()
        if _TAKES_EMPTY_FOR_NULL not in text:
            raise Broken(f"{file} is not the source that is expected here")
        file.write_text(text.replace(_TAKES_EMPTY_FOR_NULL, "if data == nil {"))

    def _generate_openapi(self) -> None:
        """Write the one generated file that the source package leaves out."""
        generator = self._work / "openapi-gen"
        self._go("build", "-o", str(generator), f"{_VENDOR}/k8s.io/kube-openapi/cmd/openapi-gen")
        run(
            [
                *(
                    str(generator),
                    "-i",
                    ",".join(self._marked_packages()),
                    "-p",
                    "k8s.io/kubernetes/pkg/generated/openapi",
                ),
                *("-O", "zz_generated.openapi", "-h", "vendor/k8s.io/code-generator/hack/boilerplate.go.txt"),
                *("-r", str(self._work / "violations.txt")),
            ],
            cwd=self._tree,
            env=self._environment(),
        )

    def _marked_packages(self) -> list[str]:
        """The packages that ask for OpenAPI definitions, by their names in Go."""
        marked = set()
        for top in ("staging/src/k8s.io", "pkg", "cmd"):
            for file in (self._tree / top).rglob("*.go"):
                path = file.relative_to(self._tree).as_posix()
                if not any(part in path for part in _NO_OPENAPI) and _is_marked(file):
                    marked.add(path.rpartition("/")[0])
        staged = "staging/src/"
        return sorted(
            f"{_VENDOR}/{name.removeprefix(staged)}" if name.startswith(staged) else f"k8s.io/kubernetes/{name}"
            for name in marked
        )

    def _compile(self, name: str) -> None:
        stamps = [
            f"-X {_VENDOR}/{package}.{key}={value}" for package in _VERSION_PACKAGES for key, value in _VERSION.items()
        ]
        target = self._work / name
        flags = ("-tags", _TAGS, "-trimpath", "-ldflags", " ".join(["-s", "-w", *stamps]))
        self._go("build", *flags, "-o", str(target), f"k8s.io/kubernetes/cmd/{name}")
        self._finish(name, target)

    def _finish(self, name: str, made: Path) -> None:
        """Move a binary to its place in one step, so that a half-written one is never found."""
        folder = self.root / "bin"
        folder.mkdir(exist_ok=True)
        made.rename(folder / name)

    def _go(self, *words: str) -> None:
        run([str(self._packages / _GO_ROOT / "bin/go"), *words], cwd=self._tree, env=self._environment())

    def _environment(self) -> dict[str, str]:
        root = self._packages / _GO_ROOT
        return {
            **os.environ,
            "PATH": f"{root / 'bin'}:{os.environ.get('PATH', '')}",
            "GOROOT": str(root),
            "GOPATH": str(self._work / "gopath"),
            "GOCACHE": str(self._work / "gocache"),
            "GO111MODULE": "off",
            "GOFLAGS": "",
            "GOTOOLCHAIN": "local",
            "CGO_ENABLED": "0",
        }


def _is_marked(file: Path) -> bool:
    text = file.read_text(errors="replace")
    return text.startswith(_MARK) or f"\n{_MARK}" in text


def _timed(say: Say) -> Say:
    """`say` with the seconds since now in front."""
    start = time.monotonic()
    return lambda line: say(f"[{time.monotonic() - start:4.0f} s] {line}")


@contextmanager
def _locked(path: Path, say: Say) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another build ({path})")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
