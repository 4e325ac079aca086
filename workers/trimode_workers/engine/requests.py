"""The requests of an engine and their rows: queued, admitted, preempted, answered, ended.

Which of them move is decided in `plan`.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence as Seq

from trimode_api.prefix import PAGE_TOKENS
from trimode_workers.engine.commit import commit
from trimode_workers.engine.constrained_commit import ended
from trimode_workers.engine.layouts import Cache, Store
from trimode_workers.engine.messages import Finish, Score, TokenEvent
from trimode_workers.engine.meter import Counters
from trimode_workers.engine.plan import Piece, left
from trimode_workers.engine.sequence import Sequence

WORTH_KEEPING = 4 * PAGE_TOKENS
"""Cached tokens from which on a sequence's pages are kept for others: to compute less again costs little, and a load
of short requests would pay 2 % for copies."""


class Requests:
    """`known` are all by id, those that wait for a grammar included; `running` have a row; `waiting` are in order of
    urgency."""

    def __init__(self, cache: Cache, store: Store, counters: Counters) -> None:
        self._cache, self.store, self._counters = cache, store, counters
        self.known: dict[str, Sequence] = {}
        self.running: list[Sequence] = []
        self.waiting: list[Sequence] = []

    def enqueue(self, sequence: Sequence) -> None:
        """Put it into the queue by its urgency."""
        bisect.insort(self.waiting, sequence, key=lambda s: s.urgency)

    def owed(self, sequence: Sequence) -> int:
        """Prompt tokens that are still to be computed."""
        return left(Piece(sequence, self.store.found(sequence), 0)) if sequence.missing else 0

    def admit(self, sequences: Seq[Sequence]) -> None:
        """Give rows to some that wait."""
        for sequence in sequences:
            sequence.row = self._cache.acquire()
            self.running.append(sequence)
            self.waiting.remove(sequence)

    def share(self, turn: Seq[Piece]) -> None:
        """Copy what other requests have computed already into the rows of those whose prompts advance."""
        for sequence, pages, _ in turn:
            if not pages:
                continue
            # Over rows 5 to 6 ms for 1,000 known tokens, which take about 80 to compute (decision record 3).
            before = sequence.cached
            self.store.fill(sequence, pages)
            copied = sequence.cached - before
            self._counters.prompt["shared"] += copied
            if not sequence.preempted:
                sequence.shared += copied

    def preempt(self, sequences: Seq[Sequence]) -> None:
        """Put them back in the queue. Their pages are kept, however few, as they will be wanted. Those may take the
        place of pages that were found for others, which is why `share` comes before."""
        for sequence in sequences:
            self.running.remove(sequence)
            self.store.keep(sequence)
            self._cache.release(sequence.row)
            sequence.row, sequence.cached, sequence.preempted = -1, 0, True
            # In front of those who came later: urgency goes by arrival, not by when it was queued.
            self.enqueue(sequence)
            self._counters.preemptions += 1

    def settle(self, sequence: Sequence, proposed: list[int], point: str) -> TokenEvent:
        """Make what a cycle in the point proposes for a request part of its answer, up to its end."""
        committed = commit(proposed, sequence.end - len(sequence.tokens), sequence.eos, sequence.kept_ends)
        # The grammar after the length: an answer that is complete with its last token has not been cut off.
        tokens, finish = ended(committed, len(proposed), sequence)
        sequence.tokens += tokens
        # A mode leaves as many causal tokens as it proposes; those of tokens that are not kept become scratch.
        sequence.cached += len(tokens)
        sequence.cycles[point] = sequence.cycles.get(point, 0) + 1
        sequence.emitted[point] = sequence.emitted.get(point, 0) + len(tokens)
        if finish is None:
            scores, prompt_scores = _scores(sequence, tokens), _prompt_scores(sequence)
            return TokenEvent(sequence.request_id, tokens, scores=scores, prompt_scores=prompt_scores)
        return self.end(sequence, tokens, finish, sequence.grammar.failure if sequence.grammar else "")

    def end(self, sequence: Sequence, tokens: list[int], finish: Finish, error: str = "", code: str = "") -> TokenEvent:
        """Forget the request and free its row; the event carries its usage."""
        del self.known[sequence.request_id]
        if sequence.row >= 0:
            self.running.remove(sequence)
            # The next turn of a conversation begins with this answer.
            self.keep(sequence)
            self._cache.release(sequence.row)
            sequence.row = -1
        # One that waits for its grammar has neither a row nor a place in the queue.
        elif sequence in self.waiting:
            self.waiting.remove(sequence)
        account = sequence.cycles, sequence.emitted, sequence.shared
        scores, prompt_scores = _scores(sequence, tokens), _prompt_scores(sequence)
        return TokenEvent(
            sequence.request_id,
            tokens,
            finish,
            error,
            *account,
            code,
            busy=sequence.busy,
            scores=scores,
            prompt_scores=prompt_scores,
        )

    def keep(self, sequence: Sequence) -> None:
        """Copy its whole pages into the store, where they are enough to be worth it."""
        if sequence.cached >= WORTH_KEEPING:
            self.store.keep(sequence)


def _scores(sequence: Sequence, tokens: Seq[int]) -> list[Score]:
    """Those of the proposed tokens that are emitted."""
    if not sequence.scores:
        return []
    found, sequence.scores = sequence.scores[: len(tokens)], []
    return found


def _prompt_scores(sequence: Sequence) -> list[Score]:
    """With the first event, whole; then none."""
    if sequence.prompt_logprobs is None or sequence.unscored:
        return []
    found, sequence.prompt_logprobs, sequence.prompt_scores = sequence.prompt_scores, None, []
    return found
