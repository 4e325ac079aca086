"""The only language between the engine's process and the shell around it.

Belongs here: frozen messages of token ids and numbers. No text, no HTTP, no tensors. The engine's loop sends one
`Cycle` per cycle, however many requests it moved: that is what keeps 64 open streams from slowing it down.
"""

from __future__ import annotations

from enum import StrEnum
from math import inf

import msgspec


class Finish(StrEnum):
    """Why a request ended. `STOP` is an end-of-sequence token; stop strings are found by the shell, which cancels."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


class Sampling(msgspec.Struct, frozen=True):
    """How tokens are drawn. `temperature` 0 is greedy. `seed` keys the randomness of each position. Drawn is, after the
    temperature, among tokens at least `min_p` times as likely as the likeliest, of them the `top_k` likeliest (0: all),
    of them the fewest that reach `top_p`."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    top_k: int = 0
    min_p: float = 0.0

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0


class Adjustments(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is done to logits before a token is chosen, greedily or not, in this order.

    `bias` is added to the logits of single ids. Only `allowed` ids may come (None: all). The last id of a `banned` word
    (of one id or more) may not come behind its others. No end may come among the first `min_tokens` of an answer. Then
    penalties, as vLLM defines them: logits of ids that prompt or answer hold are divided by `repetition`, or multiplied
    where they are negative; from those of ids in the answer `presence` is taken off, and `frequency` for each time.
    """

    bias: dict[int, float] = {}
    allowed: tuple[int, ...] | None = None
    banned: tuple[tuple[int, ...], ...] = ()
    min_tokens: int = 0
    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0

    @property
    def penalises(self) -> bool:
        """Whether logits depend on the tokens before them by their counts."""
        return self.repetition != 1.0 or self.presence != 0.0 or self.frequency != 0.0


class Score(msgspec.Struct, frozen=True, array_like=True):
    """How likely the model found a token: the natural logarithm of its probability among all tokens, before anything
    that a request wants is done to logits. `ids` are the likeliest tokens there, `logprobs` theirs. `rank`: 1 where
    none is likelier, 0 where it was not asked for."""

    logprob: float
    ids: list[int] = []
    logprobs: list[float] = []
    rank: int = 0


class GrammarForm(StrEnum):
    """The language a grammar is written in: JSON Schema, llguidance's Lark, a regular expression, a JSON list of texts,
    or GBNF, which may be Lark as well."""

    JSON_SCHEMA = "json_schema"
    LARK = "lark"
    REGEX = "regex"
    CHOICE = "choice"
    GRAMMAR = "grammar"


class Grammar(msgspec.Struct, frozen=True):
    """What an answer must follow: `schema` in the language `form`. `lenient`: what of a JSON schema cannot be enforced
    is left out. `field` of the client's request asks for it, and is named by errors."""

    schema: str
    lenient: bool = False
    form: GrammarForm = GrammarForm.JSON_SCHEMA
    field: str = "response_format"


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """One request. `tokens` is the prompt (with what was already emitted, when a stream is resumed: the last `emitted`
    tokens).

    `pin` is an operating point (`S8`) the request must run in, None to follow the policy. `lossy_ok` admits
    diffusion points. `tier_tpot_s` is the tier's objective for seconds per output token, 0 for none;
    `first_left_s` seconds left until the first token is due (infinite: no objective). `workload`: the kind of text, as
    the client names it. `stop_ids` end the answer like the model's own ends, also where those are ignored; with
    `keep_stop` they are emitted, being its last token. `logprobs`: tokens come with their scores, and those of so many
    of the likeliest. `prompt_logprobs`: the same of the prompt's, with the first token of the answer. Of
    requests with one `priority` those of the lowest `order` come first. `salt`: state is shared with requests that have
    the same one only.
    """

    request_id: str
    tokens: list[int]
    max_new_tokens: int
    sampling: Sampling = Sampling()
    pin: str | None = None
    lossy_ok: bool = False
    tier: str = ""
    tier_tpot_s: float = 0.0
    priority: int = 0
    ignore_eos: bool = False
    grammar: Grammar | None = None
    emitted: int = 0
    workload: str = ""
    adjustments: Adjustments | None = None
    stop_ids: tuple[int, ...] = ()
    keep_stop: bool = False
    first_left_s: float = inf
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    order: int = 0
    salt: str = ""

    @property
    def ordered(self) -> bool:
        """Whether each token has to be chosen behind those before it, which diffusion does not do."""
        return self.grammar is not None or self.adjustments is not None or self.logprobs is not None


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """The client left, or a stop string was found: free the row before the next cycle."""

    request_id: str


class Configure(msgspec.Struct, frozen=True, tag="configure"):
    """Points the engine may use from the next cycle on, and how it moves between them.

    `fixed` (an operating point) is manual mode. `dry_run` decides and reports, but stays at `fallback`.
    """

    points: list[str]
    fallback: str
    fixed: str | None = None
    margin_percent: float = 5.0
    min_dwell_s: float = 0.2
    dry_run: bool = False
    version: int = 0


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """End the engine's process; running requests are dropped (drain first)."""


Command = Submit | Cancel | Configure | Stop


class TokenEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one cycle did to one request.

    `tokens`: newly emitted ids, an end-of-sequence token not among them; `scores` theirs, where they were asked for.
    `prompt_scores` come once, of all tokens of the prompt but its first.
    The rest is set when `finish` is: usage in tokens, `cycles` and `emitted` by operating point (cycles run, tokens
    emitted), `shared` prompt tokens that were computed before the request came, and `error` in words; of a refusal also
    `code` and `field` (`RequestRefused`). `busy`: its share of the engine's time, in seconds by operating point and
    `prompt` (`meter`).
    """

    request_id: str
    tokens: list[int]
    finish: Finish | None = None
    error: str = ""
    cycles: dict[str, int] = {}
    emitted: dict[str, int] = {}
    shared: int = 0
    code: str = ""
    field: str | None = None
    busy: dict[str, float] = {}
    scores: list[Score] = []
    prompt_scores: list[Score] = []


class PointStats(msgspec.Struct, frozen=True):
    """What the engine believes of one operating point at the present batch."""

    point: str
    cycle_seconds: float
    tokens_per_cycle: float
    tokens_per_second: float
    observed_cycles: int


class Switched(msgspec.Struct, frozen=True):
    """The last change of the decided point, a probe not being one: from, to, and why."""

    source: str
    target: str
    reason: str
    detail: str


class Stats(msgspec.Struct, frozen=True):
    """The engine's state after a cycle. `decision_point` differs from `point` in a dry run only.

    `decision_since` is in seconds of the engine's monotonic clock, `age_s` how long the decision stands.
    `emitted_total`, `cycles_total`, `forwards_total` (of each row) count since start, `switches_total` changes of the
    decided point. `paces` (requests decoding, seconds per token of one) and what prompts cost tell the router how much
    load leaves everyone in time; `utilization` is the share of that which is in use, None where nobody knows.
    `prompt_total`: tokens brought into rows before decoding, `computed` and `shared`; `stored_pages` of `store_pages`
    of the page store hold something. `shortages_total`: how often the device's memory ran out, since start. `busy_s`
    and `idle_s`: all time since the engine was warm, up to its last cycle.
    """

    running: int
    waiting: int
    free_rows: int
    cached_tokens: int
    capacity_tokens: int
    queued_prompt_tokens: int
    point: str
    decision_point: str
    reason: str
    detail: str
    age_s: float
    switches_total: int
    cycles_total: dict[str, int]
    emitted_total: dict[str, int]
    seconds_total: dict[str, float]
    preemptions_total: int
    policy_version: int
    curves: list[PointStats]
    switched: Switched | None = None
    paces: tuple[tuple[int, float], ...] = ()
    prompt_seconds_per_token: float = 0.0
    prompt_tokens_per_second: float = 0.0
    forwards_total: dict[str, int] = {}
    prompt_total: dict[str, int] = {}
    stored_pages: int = 0
    store_pages: int = 0
    shortages_total: int = 0
    utilization: float | None = None
    busy_s: float = 0.0
    idle_s: float = 0.0


# Encoding one takes 1 to 29 us.
class Cycle(msgspec.Struct, frozen=True, tag="cycle"):
    """One cycle's outcome. `stats` rides along a few times a second and whenever the point changes, else None."""

    events: list[TokenEvent]
    point: str
    seconds: float
    stats: Stats | None = None


TOOL_GRAMMAR = "tool_grammar"
"""In `Started.refused`: grammars that hold tool calls, which several fields of a request ask for."""


class Started(msgspec.Struct, frozen=True, tag="started"):
    """The engine is warm. Limits in tokens and requests, `device` and `dtype` as torch names them. `no_grammar`: why
    it cannot make answers follow a grammar, empty where it can; `refused`: by field of a request why it cannot obey
    it."""

    max_context_tokens: int
    max_running_requests: int
    eos_token_ids: list[int]
    mask_token_id: int
    device: str
    dtype: str
    parameters: int
    load_seconds: float
    no_grammar: str = ""
    refused: dict[str, str] = {}


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The engine could not start, or ended: `error` is one line for a person."""

    error: str


Reply = Started | Cycle | Failed
