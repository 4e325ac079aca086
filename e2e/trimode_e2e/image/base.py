"""The lowest layer: Debian's packages as they are once installed, without installing them.

Belongs here: the choice of packages, and what their maintainer scripts would do.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from trimode_e2e.control.debian import Debian, contents
from trimode_e2e.errors import Missing
from trimode_e2e.image import interpreter
from trimode_e2e.image.layer import Layer

PACKAGES = (
    # What python:slim has and a pod may call: KubeRay starts Ray in a login shell, preStop hooks call sleep.
    *("base-files", "base-passwd", "bash", "ca-certificates", "coreutils", "dash", "debianutils", "diffutils"),
    *("findutils", "grep", "gzip", "hostname", "libc-bin", "mawk", "netbase", "sed", "tar", "tzdata"),
    # What Python's own modules, Ray and torch load.
    *("libbz2-1.0", "libcrypt1", "libdb5.3", "libexpat1", "libffi8", "libgdbm-compat4", "liblzma5"),
    *("libncursesw6", "libnsl2", "libreadline8", "libsqlite3-0", "libssl3", "libstdc++6", "libtirpc3", "libuuid1"),
    "zlib1g",
)
ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}

_MERGED = ("bin", "lib", "lib64", "sbin")
"""Links to folders of /usr, as on every Debian since bookworm. Packages still name the links."""
_FOLDERS = {
    "tmp": 0o1777,
    "var/tmp": 0o1777,
    **dict.fromkeys(("dev", "etc", "home", "opt", "proc", "root", "run", "srv", "sys", "usr/local/sbin"), 0o755),
}
_COPIES = {
    "usr/share/base-files/profile": "etc/profile",
    "usr/share/base-passwd/passwd.master": "etc/passwd",
    "usr/share/base-passwd/group.master": "etc/group",
    "usr/share/libc-bin/nsswitch.conf": "etc/nsswitch.conf",
    "usr/share/debianutils/shells": "etc/shells",
}
_LINKS = {
    "etc/localtime": "/usr/share/zoneinfo/Etc/UTC",
    "usr/bin/awk": "mawk",
    "usr/bin/which": "which.debianutils",
}
_UNUSED = tuple(f"usr/share/{name}/" for name in ("info", "lintian", "locale", "man", "menu"))
_CERTIFICATES = "usr/share/ca-certificates/"


def fill(layer: Layer, suite: str) -> None:
    """Debian, then Python. Raises Missing where this machine's Python needs more than the packages have."""
    with tempfile.TemporaryDirectory(prefix="trimode-image-") as folder:
        for path, mode in _FOLDERS.items():
            layer.folder(path, mode)
        for name in _MERGED:
            layer.link(name, f"usr/{name}")
        source = Debian(suite, Path(folder))
        source.prepare()
        _debian(layer, source.download_with_needs(*PACKAGES))
    interpreter.fill(layer)
    names = {Path(path).name for path in layer.paths}
    if lacking := sorted(interpreter.libraries() - names):
        raise Missing(
            f"the Python of this machine needs {', '.join(lacking)}, which no package of the image has "
            "(PACKAGES in e2e/trimode_e2e/image/base.py)"
        )


def _debian(layer: Layer, packages: list[Path]) -> None:
    certificates: list[bytes] = []
    for package in packages:
        with contents(package) as tar:
            for info in tar:
                path = merged(info.name)
                if not path or unused(path):
                    continue
                content = tar.extractfile(info) if info.isreg() else None
                if content and (path in _COPIES or path.startswith(_CERTIFICATES)):
                    known = content.read()
                    layer.data(_COPIES.get(path, path), known)
                    certificates += [known] if path.endswith(".crt") else []
                    continue
                info.name = path
                if info.islnk():
                    info.linkname = merged(info.linkname)
                layer.member(info, content)
    for path, target in _LINKS.items():
        layer.link(path, target)
    layer.data("etc/ssl/certs/ca-certificates.crt", b"".join(certificates))


def merged(path: str) -> str:
    """A path as a package names it (`./bin/sh`) in a file system where /bin is a link to /usr/bin; "" for the root."""
    plain = path.removeprefix(".").strip("/")
    return f"usr/{plain}" if plain.partition("/")[0] in _MERGED else plain


def unused(path: str) -> bool:
    """Manuals, translations and documents, but for licences."""
    document = path.startswith("usr/share/doc/") and not path.endswith("/copyright")
    return document or f"{path}/".startswith(_UNUSED)
