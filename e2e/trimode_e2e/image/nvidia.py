"""What to do about NVIDIA's libraries: PyPI's torch is linked with 1.7 GB of them, and a CPU calls none.

Belongs here: which of them are left out, which are replaced, and by what. Leaving a library out that torch is linked
with ends `import torch`; torch reads its symbols and calls them only with a GPU. Of torch's build for CPUs, which
needs no such libraries, nothing is left out.
"""

from __future__ import annotations

import functools
import re
import shutil
import sysconfig
import tempfile
from pathlib import Path

from trimode_e2e.control.programs import run
from trimode_e2e.errors import Missing

_LARGE = 8 << 20
_TOOLS = ("cc", "nm", "readelf")
_FAILURE = """
#include <stdlib.h>
#include <unistd.h>
static const char words[] = "NVIDIA's libraries are stand-ins in this image, which is for machines without a GPU\\n";
static void not_here(void) {
  if (write(2, words, sizeof words - 1) < 0) _exit(1);
  abort();
}
"""


def left_out(name: str) -> bool:
    """Whether this distribution is for GPUs only; torch loads it when there is one, but for `small_libraries`."""
    return name.startswith(("nvidia-", "cuda-")) or name == "triton"


def small_libraries() -> list[Path]:
    """Those that torch is linked with and that may stay."""
    return [path for path in _linked() if path.stat().st_size <= _LARGE]


def large_libraries() -> list[Path]:
    """Those that torch is linked with and that are replaced by `stand_in`."""
    return [path for path in _linked() if path.stat().st_size > _LARGE]


def stand_in() -> bytes:
    """One shared library with all symbols that torch reads from the large ones; calling any ends the process."""
    theirs = {symbol.partition("@")[0] for symbol in _symbols("--defined-only", large_libraries())}
    asked = _symbols("--undefined-only", [*_torch(), *small_libraries()])
    wanted = sorted(symbol for symbol in asked if symbol.partition("@")[0] in theirs)
    return compiled(wanted)


def compiled(symbols: list[str]) -> bytes:
    """A shared library that has each of these (`name` or `name@version`) as a function that ends the process."""
    with tempfile.TemporaryDirectory(prefix="trimode-image-") as name:
        folder = Path(name)
        (folder / "stand_in.c").write_text(_code(symbols))
        (folder / "versions").write_text(_versions(symbols))
        link = ["-Wl,--version-script=versions", "-o", "stand_in.so"]
        run(["cc", "-shared", "-fPIC", "-fno-builtin", "-s", *link, "stand_in.c"], cwd=folder)
        return (folder / "stand_in.so").read_bytes()


def _code(symbols: list[str]) -> str:
    """C with one function under all these names, without their versions."""
    names = [symbol.partition("@")[0] for symbol in symbols]
    return _FAILURE + "".join(f'void {name}(void) __attribute__((alias("not_here")));\n' for name in names)


def _versions(symbols: list[str]) -> str:
    """A linker's script that gives `name@version` its version. A loader refuses what lacks one."""
    groups: dict[str, list[str]] = {}
    for symbol in symbols:
        name, _, version = symbol.partition("@")
        if version:
            groups.setdefault(version, []).append(name)
    return "".join(f"{version} {{ {'; '.join(names)}; }};\n" for version, names in groups.items())


@functools.cache
def _linked() -> tuple[Path, ...]:
    """NVIDIA's libraries that torch's are linked with, and what the small ones of them are linked with."""
    theirs = {path.name: path for path in _site().glob("nvidia/**/lib/*.so*")}
    if not theirs:
        return ()
    if lacking := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        raise Missing(f"replacing NVIDIA's libraries needs {', '.join(lacking)} (packages binutils and gcc)")
    found: dict[str, Path] = {}
    waiting = _torch()
    while waiting:
        told = run(["readelf", "--dynamic", "--wide", str(waiting.pop())])
        new = [name for name in re.findall(r"\(NEEDED\).*\[(.*)\]", told) if name in theirs and name not in found]
        found |= {name: theirs[name] for name in new}
        waiting += [theirs[name] for name in new if theirs[name].stat().st_size <= _LARGE]
    return tuple(found[name] for name in sorted(found))


def _torch() -> list[Path]:
    return sorted(_site().glob("torch/lib/*.so*"))


def _symbols(which: str, libraries: list[Path]) -> set[str]:
    """With their versions: `name@version`, or `name@@version` where it is defined."""
    if not libraries:
        return set()
    told = run(["nm", "--dynamic", which, *map(str, libraries)])
    return {line.split()[-1] for line in told.splitlines() if re.match(r"[0-9a-f ]+ [A-Z] ", line)}


def _site() -> Path:
    return Path(sysconfig.get_path("purelib"))
