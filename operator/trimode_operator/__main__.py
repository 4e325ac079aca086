"""`python -m trimode_operator`: the operator's process. The environment, logging, exit codes."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

import structlog

from trimode_operator.errors import BadStart
from trimode_operator.kube.api import connect
from trimode_operator.process.options import Options, read_options
from trimode_operator.run import Operation


def main(arguments: list[str] | None = None) -> int:
    """Exit codes: 0 stopped on request, 2 could not start."""
    try:
        options = read_options(arguments, os.environ)
        configure_logs()
        asyncio.run(_run(options))
    except BadStart as error:
        print(f"trimode operator: {error}", file=sys.stderr)  # noqa: T201 - logs may not be configured yet
        return 2
    return 0


async def _run(options: Options) -> None:
    # The HTTP client wants a running loop.
    await Operation(options, await connect()).run()


def configure_logs() -> None:
    """One JSON object a line on stderr: from level info on, in UTC; of kopf and the HTTP clients from warning on."""
    shared: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    handler.addFilter(lambda record: "Unresolved resources" not in record.getMessage())  # optional APIs, see discovery
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)


if __name__ == "__main__":
    sys.exit(main())
