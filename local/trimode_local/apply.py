"""`trimode apply`: hand a changed resource to the `up` that serves it.

The file is checked here first, so that a wrong one never reaches a running fleet.
"""

from __future__ import annotations

import os

from rich.text import Text

from trimode_api.resource import GROUP, KIND
from trimode_local import console, download, preflight
from trimode_local.control_socket import send, socket_path
from trimode_local.errors import BadInput, CliError
from trimode_local.plan import plan
from trimode_local.resource_file import load


def apply(file: str) -> None:
    """Send the resource in `file`; prints what kubectl would, and what changed. Raises TrimodeError."""
    deployment = load(file)
    plan(deployment)
    with download.shown(console.err) as told:  # here, so that the fleet goes on while a new model is downloaded
        preflight.model_folder(deployment, told)
    name = deployment.metadata.name
    resource = deployment.model_dump(mode="json", by_alias=True, exclude_none=True)
    answer = send(socket_path(name, os.environ), {"order": "apply", "resource": resource})
    if "error" in answer:
        raise (BadInput if answer.get("status") == 2 else CliError)(f"{file}: {answer['error']}")
    changes = answer["changes"]
    console.out.print(f"{KIND.lower()}.{GROUP}/{name} {'configured' if changes else 'unchanged'}", soft_wrap=True)
    for change in changes:
        console.err.print(Text(f"  {change}"), soft_wrap=True)
    for action in answer["actions"]:
        console.err.print(Text(f"  {action}", style="dim"), soft_wrap=True)
