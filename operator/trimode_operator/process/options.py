"""What one operator process is started with: where to watch, its identity, which ports to open.

From the command line, the environment and the settings file; nothing else reads them.
"""

from __future__ import annotations

import argparse
import socket
from collections.abc import Mapping
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trimode_api.errors import problems_of
from trimode_api.values import Name
from trimode_operator.errors import BadStart
from trimode_operator.plan.settings import Settings

DEFAULT_LEASE = "trimode-operator"


class Options(BaseModel):
    """`namespaces` empty: all of them. The Lease of that name in `lease_namespace` elects the leader."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: Settings = Settings()
    namespaces: tuple[Name, ...] = ()
    lease: Name = DEFAULT_LEASE
    lease_namespace: Name = "default"
    identity: str = Field(min_length=1)
    host: str = "0.0.0.0"
    metrics_port: int = Field(default=8080, ge=0, le=65535)
    health_port: int = Field(default=8081, ge=0, le=65535)


def read_options(arguments: list[str] | None, environment: Mapping[str, str]) -> Options:
    """From argv and the environment (POD_NAME, POD_NAMESPACE). Raises BadStart with every problem."""
    parser = argparse.ArgumentParser(prog="python -m trimode_operator", description="The trimode operator.")
    parser.add_argument("--settings", type=Path, metavar="FILE", help="YAML file: images, resources, the platform")
    parser.add_argument("--namespace", action="append", default=[], help="watch only this one; may be repeated")
    parser.add_argument("--lease", default=DEFAULT_LEASE, help="name of the Lease that elects the leader")
    parser.add_argument("--host", default="0.0.0.0", help="address of both ports")
    parser.add_argument("--metrics-port", type=int, default=8080, help="for /metrics")
    parser.add_argument("--health-port", type=int, default=8081, help="for /healthz and /readyz")
    given = parser.parse_args(arguments)
    namespaces = tuple(dict.fromkeys(given.namespace))
    settings, file = Settings(), given.settings
    try:
        if file is not None:
            settings = Settings.model_validate(yaml.safe_load(file.read_text()) or {})
    except OSError as error:
        raise BadStart(f"--settings {file}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadStart(f"--settings {file}: not YAML: {error}") from error
    except ValidationError as error:
        problems = "; ".join(str(problem) for problem in problems_of(error))
        raise BadStart(f"--settings {file}: {problems}") from error
    try:
        return Options(
            settings=settings,
            namespaces=namespaces,
            lease=given.lease,
            lease_namespace=environment.get("POD_NAMESPACE") or (namespaces[0] if namespaces else "default"),
            identity=environment.get("POD_NAME") or socket.gethostname(),
            host=given.host,
            metrics_port=given.metrics_port,
            health_port=given.health_port,
        )
    except ValidationError as error:
        raise BadStart("; ".join(str(problem) for problem in problems_of(error))) from error
