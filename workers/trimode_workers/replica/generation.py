"""One request in flight: from the engine's events to text and an outcome. No HTTP: text goes to a listener."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from trimode_api.errors import ApiError
from trimode_workers.engine.messages import Finish, Submit, TokenEvent
from trimode_workers.openai.logprobs import Scored
from trimode_workers.openai.render import Outcome
from trimode_workers.process.handle import EngineHandle
from trimode_workers.process.pending import EngineFailed
from trimode_workers.text.answer import NOTHING, AnswerReader, Delta

LOST_RETRY_AFTER_S = 1
NOT_OFFERED = "mode_not_allowed"
"""The engine's code for a pinned point that its policy does not have."""


Show = Callable[[Delta, Sequence[int], Sequence[Scored]], None]
"""(what is new, the tokens that came since the last, the same with their scores where these are wanted)."""


@dataclass(slots=True)
class Held:
    """What nobody has been shown yet, one after the other."""

    delta: Delta = NOTHING
    ids: list[int] = field(default_factory=list)
    scored: list[Scored] = field(default_factory=list)

    def add(self, delta: Delta, ids: Sequence[int], scored: Sequence[Scored]) -> None:
        self.delta = self.delta.plus(delta)
        self.ids += ids
        self.scored += scored


Charge = Callable[[dict[str, float]], None]
"""Takes a share of the engine's time that no answer tells of."""


@dataclass(frozen=True, slots=True)
class Before:
    """What stands before the first new text of an answer. `emitted`: the last tokens of the request are those of its
    answer that the client has from another replica; their text is not shown again. `echo`: the prompt's text, which
    comes before the answer's, with the prompt's scores."""

    emitted: Sequence[int] = ()
    echo: str | None = None


NOTHING_BEFORE = Before()


class Generation:
    """Runs one request. `begun` is done with the engine's first event, `done` with the outcome or an ApiError.

    Text that arrives before `listen` is kept for it.
    """

    def __init__(
        self,
        engine: EngineHandle,
        request: Submit,
        text: AnswerReader,
        before: Before = NOTHING_BEFORE,
        charge: Charge = lambda busy: None,
    ) -> None:
        # An answer of no tokens runs one in vain: with it come the scores of the prompt.
        self._wordless = request.max_new_tokens < 1 and request.prompt_logprobs is not None
        if self._wordless:
            request = replace(request, max_new_tokens=1)
        self._echo = before.echo
        self.prompt_scored: list[Scored] = []
        """The prompt's tokens with their scores, where these are wanted."""
        self._engine = engine
        self._request = request
        self._text = text
        self._emitted = before.emitted
        self._charge = charge
        self._busy: dict[str, float] = {}
        self._abandoned = False
        self._kept = Held()
        self._fresh: list[int] = []  # tokens whose text is not shown yet, or not whole
        self._scored: list[Scored] = []  # of these
        self._show: Show = self._kept.add
        self._stopped = False
        self._ended = False  # not `done.done()`: cancelling a handler cancels the future it waits for
        loop = asyncio.get_running_loop()
        self.begun: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[Outcome] = loop.create_future()

    def start(self) -> None:
        """Hand the request to the engine, unless all was said before. ApiError 503 where the engine is gone."""
        # What decoder and stop strings kept back is a function of the tokens, so they stand as they stood.
        self._stopped = self._text.feed(self._emitted).stopped
        request, said = self._request, self._emitted[-1:]
        # A stop token that is shown was the last one, though its end has not reached the client.
        ended = request.keep_stop and not set(request.stop_ids).isdisjoint(said)
        if self._stopped or ended or request.max_new_tokens < 1:
            self._end(TokenEvent(request.request_id, []), Finish.STOP if ended else Finish.LENGTH)
            self.begun.set_result(None)
            return
        try:
            self._engine.submit(self._request, self._on_event)
        except EngineFailed as exc:
            raise lost(str(exc)) from exc

    def listen(self, show: Show) -> None:
        """From now on text goes to `show`, beginning with what was kept."""
        kept, self._kept = self._kept, Held()
        self._show = show
        if kept.delta:
            show(kept.delta, kept.ids, kept.scored)

    @property
    def tokens(self) -> list[int]:
        """Of prompt and answer, as far as they were there when it began."""
        return self._request.tokens

    @property
    def prompt_tokens(self) -> int:
        """Of the client's prompt alone."""
        return len(self._request.tokens) - len(self._emitted)

    @property
    def failed(self) -> bool:
        """Whether it has ended in an error."""
        return self.done.done() and not self.done.cancelled() and self.done.exception() is not None

    async def whole(self) -> tuple[Delta, list[Scored], Outcome]:
        """Wait for the end; all that no listener took, and scores. ApiError where the engine refused or died."""
        outcome = await self.done
        return self._kept.delta.plus(outcome.rest), [*self._kept.scored, *outcome.scored], outcome

    def abandon(self) -> None:
        """No answer, or none that is whole, tells of it: the engine frees the row before its next cycle, and what it
        has cost is charged. Once."""
        if self._abandoned:
            return
        self._abandoned = True
        if not self._ended:
            self._engine.cancel(self._request.request_id)
        elif self._busy:
            self._charge(self._busy)

    def _on_event(self, event: TokenEvent) -> None:
        if self._abandoned:
            if event.finish is not None and event.busy:
                self._charge(event.busy)
            return
        if self._request.prompt_logprobs is not None and not self.prompt_scored:
            # Its tokens with their scores: kept, and told before the answer's where the prompt is echoed.
            first, *others = self._request.tokens
            self.prompt_scored = [Scored(first, None), *map(Scored, others, event.prompt_scores)]
            if self._echo is not None and self._request.logprobs is not None:
                self._scored = [*self.prompt_scored, *self._scored]
        if event.tokens and not self._stopped and not self._wordless:
            before = self._text.tokens
            delta = self._text.feed(event.tokens)
            self._fresh += event.tokens
            if event.scores:  # behind a stop string nothing counts
                counted = self._text.tokens - before
                self._scored += map(Scored, event.tokens[:counted], event.scores[:counted])
            if delta:
                ids, self._fresh = self._fresh, []
                scored, self._scored = self._scored, []
                self._show(self._echoed().plus(delta), ids, scored)
            if delta.stopped:
                self._stopped = True
                if event.finish is None:
                    # Its last event comes within a cycle and carries the account of cycles.
                    self._engine.cancel(self._request.request_id)
        if event.finish is not None:
            self._end(event, event.finish)
        if not self.begun.done():
            self.begun.set_result(None)

    def _end(self, event: TokenEvent, finish: Finish) -> None:
        self._ended, self._busy = True, event.busy
        if self.done.done():  # cancelled together with the handler that waited for it
            return
        if finish is Finish.ERROR:
            self.done.set_exception(self._error(event))
            self.done.exception()  # marks it as seen: the client may be gone before anybody awaits it
            return
        rest = self._echoed()
        if not self._stopped:
            last = self._text.finish()
            self._stopped, rest = last.stopped, rest.plus(last)
        if self._wordless:
            finish = Finish.LENGTH
        reason = "length" if finish is Finish.LENGTH and not self._stopped else "stop"
        if reason == "stop" and self._text.called:
            reason = "tool_calls"
        before, prompt = len(self._emitted), self.prompt_tokens
        account = event.cycles, event.emitted, before, min(event.shared, prompt)
        self.done.set_result(
            Outcome(reason, prompt, self._text.tokens, *account, rest, event.busy, tuple(self._scored))
        )

    def _echoed(self) -> Delta:
        """The prompt's text, once."""
        echo, self._echo = self._echo, None
        return NOTHING if echo is None else Delta(echo)

    def _error(self, event: TokenEvent) -> ApiError:
        if self._engine.lost:
            return lost(event.error)
        if event.code == NOT_OFFERED:
            # The shell found the point among those it offers, so the engine has an older or a newer policy.
            return ApiError(503, event.error, code=NOT_OFFERED, param=event.field, retry_after_s=LOST_RETRY_AFTER_S)
        # What a schema lacks shows in mid-answer, too, where the engine has no field to name but says it first.
        asked = self._request.grammar
        form = asked.field if asked is not None and event.error.startswith(f"{asked.field}:") else None
        return ApiError(400, event.error, code=event.code or "refused", param=event.field or form)


def lost(why: str) -> ApiError:
    """The engine is gone; another replica, or this one's successor, can answer."""
    return ApiError(503, f"engine lost: {why}", code="engine_lost", retry_after_s=LOST_RETRY_AFTER_S)
