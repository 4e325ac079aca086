"""An engine in this process, and the two loads that measure it: prompts answered together, and a closed loop.

Nothing lies between the clock and the model: no HTTP, no text, no second process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from trimode_local.errors import BadInput, CliError

if TYPE_CHECKING:
    from trimode_workers.engine.engine import Engine
    from trimode_workers.engine.messages import Started
    from trimode_workers.text.tokenizer import TextModel

Chat = Sequence[Mapping[str, str]]
"""The messages of one request."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What to build: a model's folder, the points allowed (the first is the fallback), requests at a time.

    `threads` 0 leaves them to torch. `shared_tokens` 0 keeps no prefixes, None as many as memory allows.
    """

    folder: Path
    adapter: str | None
    points: Sequence[str]
    rows: int
    threads: int = 0
    shared_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """An engine, and the prompts as its tokens. `context`: tokens that were asked for; it may have fewer."""

    engine: Engine
    started: Started
    text: TextModel
    prompts: list[list[int]]
    context: int


@contextmanager
def refusals() -> Iterator[None]:
    """What a model, its settings or its template refuse becomes BadInput."""
    from trimode_workers.errors import ModelError, SettingsError, TemplateError, TokenizerError

    try:
        yield
    except (ModelError, SettingsError, TokenizerError, TemplateError) as exc:
        raise BadInput(str(exc)) from exc


def load(spec: EngineSpec, chats: Sequence[Chat], context: Callable[[int], int]) -> Loaded:
    """Build the engine; `context` says for the longest prompt how many tokens it must hold. Raises BadInput."""
    from trimode_workers.engine.messages import Configure
    from trimode_workers.process.build import build
    from trimode_workers.replica.settings import EngineOptions
    from trimode_workers.text.tokenizer import load_text_model

    with refusals():
        text = load_text_model(spec.folder)
        prompts = [text.chat(chat) for chat in chats]
        needed = context(max(map(len, prompts)))
        options = EngineOptions(
            model=str(spec.folder),
            draft_adapter=spec.adapter,
            max_context_tokens=needed,
            max_running_requests=spec.rows,
            threads=spec.threads,
        )
        configure = Configure(list(spec.points), spec.points[0])
        engine, started = build(options, configure, shared_tokens=spec.shared_tokens)
    return Loaded(engine, started, text, prompts, needed)


@dataclass(slots=True)
class Completion:
    """One request. `ids`: the tokens a client gets; `ended`: whether it came to the end of sequence. `produced`: tokens
    of the point asked for, in its `cycles`, with that end, which takes a forward as other tokens do. Seconds since all
    were sent; `first_s` None where nothing came."""

    ids: list[int] = field(default_factory=list)
    cycles: int = 0
    produced: int = 0
    ended: bool = False
    first_s: float | None = None
    last_s: float = 0.0


def complete(engine: Engine, prompts: Sequence[list[int]], point: str, max_tokens: int) -> list[Completion]:
    """The prompts sent at once, all pinned to `point`, until the last has ended. Raises CliError for a refusal."""
    from trimode_workers.engine.messages import Finish, Submit

    began = time.perf_counter()
    running = {str(index): Completion() for index in range(len(prompts))}
    for name, prompt in zip(running, prompts, strict=True):
        engine.submit(Submit(name, prompt, max_tokens, pin=point, lossy_ok=True))
    while not engine.idle:
        events = engine.step().events
        now = time.perf_counter() - began
        for event in events:
            if event.finish is Finish.ERROR:
                raise CliError(f"{point}: the engine refused a prompt: {event.error}")
            one = running[event.request_id]
            if event.tokens:
                one.first_s = now if one.first_s is None else one.first_s
                one.last_s = now
                one.ids += event.tokens
            if event.finish is not None:
                # Where a prompt rode along with others that decode, its first token is its own forward's, and AR's.
                one.cycles = event.cycles.get(point, 0)
                one.ended = event.finish is Finish.STOP
                one.produced = event.emitted.get(point, 0) + one.ended
    return list(running.values())


@dataclass(slots=True)
class Turn:
    """What one run of a closed loop counted. `ttft_s`, `latency_s`: seconds to the first and to the last token, of
    requests that had theirs meanwhile."""

    seconds: float = 0.0
    cycles: int = 0
    tokens: int = 0
    ttft_s: list[float] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class ClosedLoop:
    """An engine that always has `clients` requests: where one ends, the next of `prompts` begins.

    `staggered`: the first answers are cut short at different lengths, as if they had not begun together.
    """

    engine: Engine
    clients: int
    prompts: Iterator[Sequence[int]]
    max_tokens: int
    staggered: bool = True
    clock: Callable[[], float] = time.perf_counter
    _names: count[int] = field(default_factory=count)
    _sent: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        spread = Random(self.clients)
        for _ in range(self.clients):
            self._send(spread.randint(1, self.max_tokens) if self.staggered else self.max_tokens)

    def _send(self, max_tokens: int) -> None:
        from trimode_workers.engine.messages import Submit

        name = str(next(self._names))
        self._sent[name] = [self.clock()]
        self.engine.submit(Submit(name, list(next(self.prompts)), max_tokens))

    def run(self, seconds: float = 0.0, cycles: int = 0, finished: int = 0, tokens: int = 0) -> Turn:
        """At least so long, so many cycles and tokens, and until so many requests began and ended to answer."""
        turn, began = Turn(), self.clock()
        while (
            turn.seconds < seconds
            or turn.cycles < cycles
            or turn.tokens < tokens
            or min(len(turn.ttft_s), len(turn.latency_s)) < finished
        ):
            events = self.engine.step().events
            now = self.clock()
            for event in events:
                times = self._sent[event.request_id]
                turn.tokens += len(event.tokens)
                if len(times) == 1:
                    times.append(now)
                    turn.ttft_s.append(now - times[0])
                if event.finish is not None:
                    turn.latency_s.append(now - times[0])
                    del self._sent[event.request_id]
                    self._send(self.max_tokens)
            turn.cycles += 1
            turn.seconds = self.clock() - began
        return turn

    def stop(self) -> None:
        """End every request; the engine is idle afterwards."""
        for name in self._sent:
            self.engine.cancel(name)
        self._sent.clear()
        while not self.engine.idle:
            self.engine.step()
