"""How `trimode apply` reaches the `trimode up` of the same deployment: one Unix socket per name.

One order and one answer, a JSON line each. The folder belongs to the user and no other user may enter it. The socket's
thread only puts orders into `inbox`: `take` carries them out on the main thread, which owns the stack.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import socketserver
import stat
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

import structlog

from trimode_api.errors import InvalidInput, TrimodeError
from trimode_api.resource import NemotronDeployment
from trimode_local import preflight
from trimode_local.errors import BadInput, CliError
from trimode_local.plan import Update, plan
from trimode_local.runner import Stack

log = structlog.get_logger("up")


def take(order: Order, stack: Stack) -> str:
    """Carry out `order` and answer it; returns the line to show."""
    try:
        if order.name == "status":
            assert stack.router is not None
            name, url = stack.deployment.metadata.name, stack.router.url
            order.answer(name=name, url=url, generation=stack.version)
            return "asked for its status"
        if order.name != "apply":
            raise BadInput(f"unknown order {order.name!r}; this `up` knows apply and status")
        new = NemotronDeployment.parse(order.resource)
        pools = plan(new)
        model = preflight.model_folder(new)
        preflight.check_machine(pools, preflight.machine_gpus(), preflight.machine_cores(), preflight.machine_memory())
        update = stack.apply(new, model)
    except TrimodeError as exc:
        order.answer(error=str(exc), status=2 if isinstance(exc, BadInput | InvalidInput) else 1)
        return f"apply refused: {str(exc).splitlines()[0]}"
    except Exception as exc:  # an order that fails must not end what serves
        log.exception("order failed", order=order.name)
        order.answer(
            error=f"not foreseen, the log of `trimode up` has its trace: {type(exc).__name__}: {exc}", status=1
        )
        return f"{order.name} failed: {type(exc).__name__}: {exc}"
    order.answer(
        changes=[str(change) for change in update.changes],
        actions=list(actions(update)),
        generation=stack.version,
    )
    return f"applied generation {stack.version}: {', '.join(actions(update))}" if update.changes else "apply: unchanged"


def actions(update: Update) -> tuple[str, ...]:
    """What was done, in words."""
    done = ["policy pushed: no restart, no request dropped"] if update.policy else []
    done += [f"pool {name} scales" for name in update.scale]
    done += [f"pool {name} rolls to new replicas" for name in update.roll]
    done += [f"pool {name} is drained and removed" for name in update.remove]
    if any(change.path.startswith("spec.router") for change in update.changes):
        done.append("spec.router counts from the next `trimode up` on")
    if update.changes and not done:
        done.append("nothing to do on one machine")
    return tuple(done)


MAX_LINE = 4 << 20
ANSWER_TIMEOUT_S = 600.0


@dataclass(slots=True)
class Order:
    """A request waiting for its answer; `answer` sends it. Orders are `apply` (with `resource`) and `status`."""

    name: str
    resource: Any = None
    _answer: dict[str, Any] = field(default_factory=dict)
    _answered: threading.Event = field(default_factory=threading.Event)

    def answer(self, **values: Any) -> None:
        self._answer = values
        self._answered.set()

    def wait(self, timeout_s: float) -> dict[str, Any]:
        if not self._answered.wait(timeout_s):
            return {"error": f"no answer within {timeout_s:g} s"}
        return self._answer


def socket_path(name: str, environment: Mapping[str, str]) -> Path:
    """Where the `up` of deployment `name` listens."""
    base = environment.get("XDG_RUNTIME_DIR") or ""
    if not os.path.isdir(base):
        base = os.path.join(tempfile.gettempdir(), f"trimode-of-{os.getuid()}")
        return Path(base) / f"{name}.sock"
    return Path(base) / "trimode" / f"{name}.sock"


class Control:
    """Listens for orders; each lands in `inbox` and is answered when it has been carried out."""

    def __init__(self, path: Path, inbox: SimpleQueue[Order | None]) -> None:
        """Raises BadInput where another process already listens there, or the folder is not ours alone."""
        folder = path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
            raise BadInput(
                f"{folder} must be a folder of yours that nobody else may enter", f"Remove it: rm -r {folder}"
            )
        # A socket that an earlier `up` left behind takes no connection: only one that does is in use.
        with socket.socket(socket.AF_UNIX) as probe:
            listening = probe.connect_ex(str(path)) == 0
        if listening:
            raise BadInput(
                f"{path.stem!r} is already up on this machine",
                "Change it with `trimode apply -f FILE`, or stop it with Ctrl-C where it runs.",
            )
        path.unlink(missing_ok=True)
        self.path = path
        self._server = _Server(str(path), inbox)
        path.chmod(0o600)
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.path.unlink(missing_ok=True)


def send(path: Path, message: Mapping[str, Any], timeout_s: float = ANSWER_TIMEOUT_S) -> dict[str, Any]:
    """One order to the `up` behind `path`, and its answer. Raises CliError where none answers."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(str(path))
            connection.sendall(json.dumps(message).encode() + b"\n")
            with connection.makefile("rb") as stream:
                line = stream.readline(MAX_LINE)
        except (FileNotFoundError, ConnectionRefusedError) as exc:
            raise BadInput(
                f"no `trimode up` of {path.stem!r} runs on this machine",
                "Start it: trimode up -f FILE",
            ) from exc
        except OSError as exc:
            raise CliError(f"the `trimode up` of {path.stem!r} did not answer: {exc}") from exc
    if not line:
        raise CliError(f"the `trimode up` of {path.stem!r} ended before it answered")
    return cast(dict[str, Any], json.loads(line))


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        try:
            message = json.loads(self.rfile.readline(MAX_LINE))
            order = Order(str(message["order"]), message.get("resource"))
        except (ValueError, KeyError, TypeError):
            answer: dict[str, Any] = {"error": "expected a JSON line with an order"}
        else:
            cast(_Server, self.server).inbox.put(order)
            answer = order.wait(ANSWER_TIMEOUT_S)
        with contextlib.suppress(OSError):  # the client may have left
            self.wfile.write(json.dumps(answer).encode() + b"\n")


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path: str, inbox: SimpleQueue[Order | None]) -> None:
        self.inbox = inbox
        super().__init__(path, _Handler)
