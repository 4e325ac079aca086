"""What the image needs: the requirements of operator, router and worker, a line each, from pyproject.toml.

Runs while the image is built, before trimode is there; it uses the standard library only.
"""

import sys
import tomllib
from pathlib import Path

EXTRAS = ("operator", "router", "workers")


def requirements(pyproject: str) -> list[str]:
    """Requirements of the project and of its extras, each once."""
    project = tomllib.loads(pyproject)["project"]
    extras = project["optional-dependencies"]
    return sorted({*project["dependencies"], *(need for name in EXTRAS for need in extras[name])})


if __name__ == "__main__":
    sys.stdout.write("\n".join(requirements(Path(sys.argv[1]).read_text())) + "\n")
