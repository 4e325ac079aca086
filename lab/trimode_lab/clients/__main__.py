"""`make clients-test`: install each client as it is today, try it, and write docs/clients.md."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from trimode_lab.clients.environment import CLIENTS, Client, python_of, tried, versions
from trimode_lab.clients.report import Check, Outcome, merged, page
from trimode_local.preflight import tiny_folder

_EXAMPLE = Path("examples/tiny.yaml")


def main() -> int:
    """Exit codes: 0 all of it works, 1 something does not."""
    parser = argparse.ArgumentParser(prog="python -m trimode_lab.clients", description=__doc__)
    parser.add_argument("--url", help="an endpoint with the tiny model; without it one is started")
    parser.add_argument("--only", nargs="*", metavar="CLIENT", help="of: " + ", ".join(each.name for each in CLIENTS))
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of clients.md and clients.json")
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "trimode" / "clients"
    options = parser.parse_args()
    chosen = [client for client in CLIENTS if not options.only or client.name in options.only]
    if options.url:
        found = _try_all(chosen, options.url, cache)
    else:
        with _serving() as url:
            found = _try_all(chosen, url, cache)
    file, text = options.out / "clients.json", options.out / "clients.md"
    # Those that were not tried now keep what was found of them before.
    before = [Outcome.of(each) for each in json.loads(file.read_text())] if file.exists() else []
    outcomes = merged(before, found, [client.name for client in CLIENTS])
    file.write_text(json.dumps([outcome.stored() for outcome in outcomes], indent=1) + "\n")
    text.write_text(page(text.read_text(), outcomes))
    return 0 if all(outcome.ok for outcome in found) else 1


def _try_all(chosen: list[Client], url: str, cache: Path) -> list[Outcome]:
    endpoint = {"URL": url, "MODEL": "tiny", "TOKENIZER": str(tiny_folder())}
    found = []
    for client in chosen:
        outcome = _try(client, endpoint, cache)
        found.append(outcome)
        _say(f"{client.name} {outcome.versions}")
        for check in outcome.checks:
            _say(f"  {'ok  ' if check.ok else 'FAIL'} {check.name}{'' if check.ok else ': ' + check.said}")
    return found


def _try(client: Client, endpoint: dict[str, str], cache: Path) -> Outcome:
    today = datetime.now(UTC).date().isoformat()
    try:
        python = python_of(client, cache)
        known = versions(client, python)
    except subprocess.SubprocessError as error:
        said = str(getattr(error, "stderr", None) or error).strip().splitlines()[-1]
        return Outcome(client.name, {}, [Check("installation", False, said)], today)
    with tempfile.TemporaryDirectory() as folder:
        try:
            checks = tried(client, python, endpoint, Path(folder))
        except subprocess.TimeoutExpired as error:
            checks = [Check("the script itself", False, f"not done after {error.timeout:g} s")]
    return Outcome(client.name, known, checks, today)


@contextmanager
def _serving() -> Iterator[str]:
    """`trimode up` with the tiny model on a port of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "trimode_cli.main", "up", "-f", str(_EXAMPLE), "--port", "0"]
        environment = {**os.environ, "XDG_RUNTIME_DIR": folder}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            ready = process.stdout.readline()
            if not ready.startswith("ready: "):
                raise SystemExit("clients-test: `trimode up` did not start")
            try:
                yield ready.split()[-1].removesuffix("/v1")
            finally:
                process.send_signal(signal.SIGTERM)


def _say(words: str) -> None:
    print(words, flush=True)  # noqa: T201 - a command's own output


if __name__ == "__main__":
    sys.exit(main())
