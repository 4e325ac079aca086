"""`python -m trimode_workers.process`: the engine's own process.

Belongs here: the one place outside the engine that imports torch.
"""

from __future__ import annotations

import sys

from trimode_workers.process.build import EXPECTED, REFUSAL, build
from trimode_workers.process.spawn import main

if __name__ == "__main__":
    sys.exit(main(build, EXPECTED, REFUSAL, sys.argv[1:]))
