"""`kubectl trimode`: a fleet on a cluster, with the user's own rights. kubectl finds `kubectl-trimode` on the path.

Belongs here: the plugin's commands. All they do goes through kubectl, so contexts and credentials are kubectl's.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any
from urllib.parse import urlsplit

import httpx
import typer
from pydantic import ValidationError

from trimode_api.errors import MOST_SHOWN, TrimodeError, clipped
from trimode_api.fleet import PUBLIC_FLEET_PATH, FleetView, Freshness
from trimode_api.modes import Mode
from trimode_local import console
from trimode_local.errors import BadInput, CliError

AUTO = "auto"
MODES = tuple(mode.value for mode in Mode if mode.lossless)

app = typer.Typer(
    name="kubectl trimode",
    help="Look at a NemotronDeployment, fix its mode, talk to it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="The resource.")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Its namespace; kubectl's own where left out.")]
Context = Annotated[str, typer.Option(help="A context of the kubeconfig.")]


@app.command()
def status(name: Name, namespace: Namespace = "", context: Context = "") -> None:
    """Conditions with their reasons, pools, and the operating point in force."""
    for line in status_lines(_resource(name, _place(namespace, context))):
        console.out.print(line, markup=False, soft_wrap=True)


@app.command()
def fleet(name: Name, namespace: Namespace = "", context: Context = "") -> None:
    """Replicas as a router sees them now: state, operating point, load, speed."""
    place = _place(namespace, context)
    with forwarded(_resource(name, place), place) as url:
        try:
            # The connection is kubectl's own; a certificate on it is for the name that clients use.
            answer = httpx.get(url + PUBLIC_FLEET_PATH, verify=False, timeout=10)
            answer.raise_for_status()
            view = FleetView.from_wire(answer.content)
        except (httpx.HTTPError, ValidationError) as error:
            raise CliError(f"the router does not tell of its fleet: {clipped(str(error), MOST_SHOWN)}") from error
    for line in fleet_lines(view):
        console.out.print(line, markup=False, soft_wrap=True)


@app.command()
def mode(
    name: Name,
    wanted: Annotated[str, typer.Argument(metavar="MODE", help=f"{', '.join(MODES)}, or {AUTO}.")],
    namespace: Namespace = "",
    context: Context = "",
) -> None:
    """Fix the mode of a fleet, or give the choice back to the policy; nothing is restarted."""
    patch = json.dumps({"spec": {"switching": switching(wanted)}})
    _kubectl([*_place(namespace, context), "patch", "nemotrondeployment", name, "--type=merge", f"--patch={patch}"])
    console.out.print(f"{name}: {wanted}", markup=False)


@app.command()
def chat(name: Name, namespace: Namespace = "", context: Context = "") -> None:
    """Talk to the model through a forwarded port; OPENAI_API_KEY where the fleet asks for keys."""
    from trimode_cli.chat import chat as talk

    place = _place(namespace, context)
    with forwarded(_resource(name, place), place) as url:
        talk(url, None, None, 0.0, None)


def switching(wanted: str) -> dict[str, Any]:
    """The change of `spec.switching`. Raises BadInput for what is no manual mode."""
    # Null takes a field away in a merge patch: what was fixed before must not stay beside the new mode.
    if wanted == AUTO:
        return {"policy": "Predictive", "mode": None, "blockLength": None}
    if wanted not in MODES:
        raise BadInput(f"mode {wanted}: write {', '.join(MODES)} or {AUTO}")
    return {"policy": "Manual", "mode": wanted, "blockLength": None}


def status_lines(resource: Mapping[str, Any]) -> Iterator[str]:
    """The resource's conditions, pools, last decision and URL, a line each."""
    status = resource.get("status") or {}
    if not status:
        yield "no status: the operator has not seen it"
    for one in status.get("conditions") or ():
        words = f"  {one['message']}" if one.get("message") else ""
        yield f"{one['type']:<17}{one['status']:<8} {one['reason']}{words}"
    for pool in status.get("pools") or ():
        points = ", ".join(f"{each['point']} {each['sharePercent']} %" for each in pool.get("points") or ())
        ready = f"{pool.get('ready', 0)} of {pool.get('replicas', 0)} replicas ready"
        yield f"pool {pool['name']}: {ready}  {points}".rstrip()
    if decision := status.get("decision"):
        yield f"decides {decision['point']} since {decision['since']}: {decision['reason']}"
    if url := status.get("url"):
        yield url


def fleet_lines(view: FleetView) -> Iterator[str]:
    """One router's view of the fleet: its queue, a line for each replica, the latest refusal."""
    router = view.router
    yield f"{view.model}  policy {view.policy_version}  {router.in_flight} in flight  {router.queued} queued"
    width = max((len(replica.replica_id) for replica in view.replicas), default=0)
    for replica in view.replicas:
        state = "draining" if replica.draining else "ready" if replica.ready else "not ready"
        if replica.freshness is not Freshness.FRESH:
            state = f"{replica.freshness.lower()}, last report {replica.age_seconds:.0f} s ago"
        load = f"{replica.running} running, {replica.waiting} waiting, {replica.tokens_per_second:.0f} tokens/s"
        yield f"{replica.replica_id:<{width}}  {replica.point:<7} {load}  {state}"
    if not view.replicas:
        yield "no replica reports"
    if view.refusals:
        last = view.refusals[-1]
        yield f"last refusal: {last.status} {last.reason}: {last.detail}"


@contextmanager
def forwarded(resource: Mapping[str, Any], place: Sequence[str]) -> Iterator[str]:
    """The address of the fleet's endpoint on this machine, while kubectl forwards to it."""
    known = urlsplit((resource.get("status") or {}).get("url") or "")
    if not known.hostname:
        raise CliError("the resource has no endpoint yet: its status has no url")
    service = f"service/{known.hostname.partition('.')[0]}"
    # kubectl takes a free port of this machine, and says in its first line which.
    command = ["kubectl", *place, "port-forward", service, f":{known.port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as forward:
        assert forward.stdout is not None
        line = forward.stdout.readline()
        found = re.search(r"127\.0\.0\.1:(\d+)", line)
        try:
            if found is None:
                raise CliError(f"kubectl port-forward {service}: {line.strip() or 'ended at once'}")
            yield f"{known.scheme}://127.0.0.1:{found[1]}"
        finally:
            forward.terminate()


def _resource(name: str, place: Sequence[str]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(_kubectl([*place, "get", "nemotrondeployment", name, "--output=json"]))
    return found


def _place(namespace: str, context: str) -> list[str]:
    given = {"namespace": namespace, "context": context}
    return [f"--{option}={value}" for option, value in given.items() if value]


def _kubectl(words: Sequence[str]) -> str:
    """What kubectl prints. Raises CliError with its words where it fails."""
    try:
        done = subprocess.run(["kubectl", *words], capture_output=True, text=True)
    except FileNotFoundError as error:
        raise CliError("kubectl is not on the path") from error
    if done.returncode:
        raise CliError(f"kubectl: {done.stderr.strip()}")
    return done.stdout


def main(arguments: list[str] | None = None) -> None:
    """Run the plugin and exit, as `trimode` does."""
    try:
        app(arguments, prog_name="kubectl trimode")
    except TrimodeError as error:
        sys.exit(console.show_error(error))


if __name__ == "__main__":
    main()
