"""`trimode chat`: talk to the model, and see how each answer was decoded.

Belongs here: the conversation on the terminal.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

from rich.text import Text

from trimode_api.modes import Mode
from trimode_local import console
from trimode_local.client import KEY_VARIABLE, Account, Endpoint, Message
from trimode_local.errors import BadInput, CliError

HELP = f"/clear forgets the conversation, /mode {'|'.join(Mode)}|auto pins the mode, /quit or Ctrl-D ends"


def options(mode: str | None, block_length: int | None) -> dict[str, Any]:
    """The request's extension for a pinned mode. Raises BadInput for what contradicts itself."""
    if mode is None:
        if block_length is not None:
            raise BadInput("--block-length needs --mode with a mode that has blocks, such as SelfSpeculation")
        return {}
    if mode not in list(Mode):
        raise BadInput(f"--mode {mode}: write {', '.join(Mode)}")
    if block_length is not None and mode == Mode.AR:
        raise BadInput("--block-length: AR decodes token by token and takes none")
    pinned: dict[str, Any] = {"mode": mode}
    if block_length is not None:
        pinned["blockLength"] = block_length
    return {"trimode": pinned}


def chat(url: str, mode: str | None, block_length: int | None, temperature: float, system: str | None) -> None:
    """The loop; ends with Ctrl-D or /quit. One question from a pipe is answered and that is all."""
    extra = options(mode, block_length)
    endpoint = Endpoint(url, key=os.environ.get(KEY_VARIABLE, ""))
    model = endpoint.model()
    interactive = sys.stdin.isatty()
    if interactive:
        console.err.print(Text(f"{model} at {endpoint.url}. {HELP}", style="dim"))
    start: list[Message] = [{"role": "system", "content": system}] if system else []
    history = list(start)
    while (line := _read(interactive)) is not None:
        if not line:
            continue
        try:
            if line.startswith("/"):
                word, _, rest = line.partition(" ")
                if line == "/quit":
                    break
                if word == "/clear":
                    history = list(start)
                elif word == "/mode":
                    pin, _, length = rest.strip().partition(" ")
                    blocks = int(length) if length.isdigit() else None
                    extra = options(None if pin in ("", "auto") else pin, blocks)
                else:
                    raise BadInput(f"{word}: {HELP}")
                continue
            question: Message = {"role": "user", "content": line}
            answer = _answer(endpoint, model, [*history, question], {**extra, "temperature": temperature})
            history += [question, {"role": "assistant", "content": answer}]
        except CliError as exc:
            if not interactive:
                raise
            console.show_error(exc)
    endpoint.close()


def _read(interactive: bool) -> str | None:
    try:
        if interactive:
            return console.err.input(Text("\nyou> ", style="bold")).strip()
        return sys.stdin.read().strip() or None if not sys.stdin.closed else None
    except (EOFError, KeyboardInterrupt):
        return None


def _answer(endpoint: Endpoint, model: str, messages: list[Message], extra: dict[str, Any]) -> str:
    """Show the answer as it comes, then its account; Ctrl-C cuts it short."""
    pieces: list[str] = []
    meter = Meter(time.perf_counter)
    try:
        for part in endpoint.chat(model, messages, extra):
            if isinstance(part, Account):
                console.err.print(Text(f"\n{meter.line(part)}", style="dim"), soft_wrap=True)
            else:
                meter.piece()
                pieces.append(part)
                console.out.print(part, end="", markup=False, soft_wrap=True)
                console.out.file.flush()
    except KeyboardInterrupt:
        console.err.print(Text("\n(cut short)", style="dim"))
    return "".join(pieces)


class Meter:
    """Times one answer. Speed counts from the question on; `clock` is in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = clock()
        self._first: float | None = None

    def piece(self) -> None:
        if self._first is None:
            self._first = self._clock()

    def line(self, account: Account) -> str:
        """`42 tokens, 912 tok/s, first after 31 ms, 6.4 per cycle, S8 80 % AR 20 %`."""
        now = self._clock()
        first = self._first if self._first is not None else now
        parts = [f"{account.completion_tokens} tokens"]
        if now > self._began:
            parts.append(f"{account.completion_tokens / (now - self._began):.0f} tok/s")
        parts.append(f"first after {1000 * (first - self._began):.0f} ms")
        if account.acceptance_length:
            parts.append(f"{account.acceptance_length:.1f} per cycle")
        total = sum(account.tokens.values())
        if total:
            shares = sorted(account.tokens.items(), key=lambda item: -item[1])
            parts.append(" ".join(f"{point} {100 * count / total:.0f} %" for point, count in shares))
        if account.finish_reason == "length":
            parts.append("cut at the limit")
        return ", ".join(parts)
