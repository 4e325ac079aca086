"""What comes into an engine from outside: requests and cancellations, on their way to the queue.

Whose turn it is after that is decided in `plan`.
"""

from __future__ import annotations

from trimode_workers.engine import validate
from trimode_workers.engine.grammar_queue import GrammarQueue, Grammars
from trimode_workers.engine.messages import Finish, Submit, TokenEvent
from trimode_workers.engine.mode_controller import ModeController
from trimode_workers.engine.requests import Requests
from trimode_workers.engine.sequence import Sequence
from trimode_workers.errors import RequestRefused
from trimode_workers.model.config import ModelConfig


class Intake:
    """`context`: the most tokens of a prompt and its answer. Without `grammars` requests that need one are refused."""

    def __init__(
        self, requests: Requests, modes: ModeController, config: ModelConfig, context: int, grammars: Grammars | None
    ) -> None:
        self._requests, self._modes = requests, modes
        self._context, self._vocabulary = context, config.vocab_size
        self._eos = frozenset(config.eos_token_ids)
        self._grammars, self._compiling = grammars, GrammarQueue()
        self._cancelled: list[TokenEvent] = []
        self._arrivals = 0

    @property
    def idle(self) -> bool:
        """Whether no request is known and no end is left to report."""
        return not (self._requests.known or self._cancelled)

    def submit(self, request: Submit, now: float) -> None:
        """Queue a request. Raises RequestRefused where it can never run here."""
        if request.request_id in self._requests.known:
            raise RequestRefused("duplicate_request", f"request {request.request_id!r} is already here", "request_id")
        pin = validate.check(request, self._modes.points, self._context, self._vocabulary, self._eos)
        sequence = Sequence.of(request, pin, self._arrivals, self._context, self._eos)
        sequence.arrived, sequence.due = now, now + request.first_left_s
        self._arrivals += 1
        # Compiling takes up to some tenths of a second, in a thread beside the cycles: who waits for it holds up no
        # cycle.
        if request.grammar is None:
            self._requests.enqueue(sequence)
        elif self._grammars is None:
            field = request.grammar.field
            raise RequestRefused("no_grammar", f"{field}: this engine follows no grammar", field)
        else:
            self._compiling.add(sequence, self._grammars.matcher(request.grammar), request.emitted)
        self._requests.known[request.request_id] = sequence

    def cancel(self, request_id: str) -> None:
        """End a request before the next cycle, which reports it. Unknown (or already ended) ids are ignored."""
        sequence = self._requests.known.get(request_id)
        if sequence is not None:
            self._compiling.remove(sequence)
            self._cancelled.append(self._requests.end(sequence, [], Finish.CANCELLED))

    def advance(self) -> list[TokenEvent]:
        """Queue the requests that have their grammars now, and return what has ended before it ran. Waits a moment for
        a grammar where there is nothing else to do."""
        ends, self._cancelled = self._cancelled, []
        if self._compiling:
            patient = not (self._requests.running or self._requests.waiting or ends)
            for sequence, problem in self._compiling.ready(patient=patient):
                if problem:
                    ends.append(self._requests.end(sequence, [], Finish.ERROR, problem))
                else:
                    self._requests.enqueue(sequence)
        return ends
