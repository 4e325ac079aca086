"""State of conversations that a simulated replica keeps for their next question.

Belongs here: what is kept and what is forgotten first. Tokens only: pages and copies are taken to be free.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trimode_tools.simulator.workload import Job


@dataclass(slots=True)
class Kept:
    """Mutable. `most`: tokens in all; the least lately used conversation goes first."""

    most: int
    tokens: int = 0
    chats: dict[int, int] = field(default_factory=dict)

    def of(self, job: Job) -> int:
        """Tokens of the job's prompt that need not be computed: at least one must be, to have something to go on."""
        return min(self.chats.get(job.chat, 0), job.shared, job.prompt - 1) if job.chat else 0

    def add(self, job: Job, room: float) -> None:
        """A request is done: its prompt and answer are kept, if need be in place of others. `room`: tokens of memory
        that nobody runs in."""
        if not (job.chat and self.most):
            return
        said = job.prompt + job.output
        self.tokens += said - self.chats.pop(job.chat, 0)
        self.chats[job.chat] = said
        while self.tokens > min(self.most, room) and self.chats:
            oldest = next(iter(self.chats))
            self.tokens -= self.chats.pop(oldest)

    def clear(self) -> None:
        """The replica died."""
        self.chats.clear()
        self.tokens = 0
