"""`python -m trimode_operator`: the operator's process.

Belongs here: the environment, exit codes, and nothing else.
"""

from __future__ import annotations

import asyncio
import os
import sys

from trimode_operator.errors import BadStart
from trimode_operator.kube.api import connect
from trimode_operator.process import logs
from trimode_operator.process.options import Options, read_options
from trimode_operator.run import Operation


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 stopped on request, 2 could not start."""
    try:
        options = read_options(arguments, os.environ)
        logs.configure()
        asyncio.run(_run(options))
    except BadStart as error:
        print(f"trimode operator: {error}", file=sys.stderr)  # noqa: T201 - logs may not be configured yet
        return 2
    return 0


async def _run(options: Options) -> None:
    await Operation(options, await connect()).run()


if __name__ == "__main__":
    sys.exit(main())
