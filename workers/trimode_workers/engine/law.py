"""What tokens are drawn from, without a tensor of probabilities.

A distribution over 131,072 tokens at each of 64 x 32 places is 1 GB in float32, and sorting it for top-p takes four
times that. What sampling needs of it is little: the chance of a token here and there, one token drawn at each place,
and one whole distribution per row where a draft was refused. So logits stay as they are; kept beside them are, for
each place, the logarithm of the mass and where top-p cuts, and probabilities are worked out for some places at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

LIKELIEST = 4096
"""Tokens among which the cut of top-p is looked for; only where they do not reach it all are sorted."""
_FEWEST, _MOST = 2**20, 2**23
"""Logits worked on at a time: a quarter of what there is within these bounds, as few large kernels are what a GPU is
good at and below the first nothing is saved."""
WORKING_BYTES = 36
"""At most, for each of them: where all of a place's tokens have to be sorted."""


@dataclass(frozen=True)
class Cuts:
    """Which tokens may be drawn at all, for each row or place: those at least `min_p` times as likely as the likeliest,
    of them the `top_k` likeliest (0: all), of them the fewest whose share of what is left reaches `top_p`."""

    top_p: Tensor
    top_k: Tensor
    min_p: Tensor

    def each(self, n: int) -> Cuts:
        """For n places of each row."""
        return Cuts(*(x[:, None].expand(-1, n).reshape(-1) for x in (self.top_p, self.top_k, self.min_p)))

    def part(self, part: slice) -> Cuts:
        return Cuts(self.top_p[part], self.top_k[part], self.min_p[part])


@dataclass(frozen=True)
class Law:
    """The distributions at `[r, n]` places.

    `logits` `[any, vocab]` of any type, `at` `[r, n]` the places' rows in it. `temperatures` `[r, 1]`. Kept are the
    tokens whose logit over temperature is above `floor` `[r, n]`, and of those that equal it the ones with ids up to
    `last` `[r, n]`; `mass` `[r, n]` is the logarithm of their sum. Without `floor` and `last` all are kept.
    """

    logits: Tensor
    at: Tensor
    temperatures: Tensor
    mass: Tensor
    floor: Tensor | None = None
    last: Tensor | None = None

    @classmethod
    def of(cls, logits: Tensor, at: Tensor, temperatures: Tensor, cuts: Cuts | None = None) -> Law:
        """logits `[b, n, vocab]`, at `[r]` the rows that draw, their temperatures and cuts `[r]`."""
        n, vocab = logits.shape[1:]
        places = at[:, None] * n + torch.arange(n, device=logits.device)
        # Without its mass, which is worked out from the law itself, some places at a time.
        law = cls(logits.reshape(-1, vocab), places, temperatures[:, None], places.new_empty(0))
        wanted = None if cuts is None else cuts.each(n)
        found = [
            _mass_and_cut(law._scaled(part), None if wanted is None else wanted.part(part))
            for part in parts(places.numel(), vocab)
        ]
        mass, floor, last = (torch.cat(column).view(places.shape) for column in zip(*found, strict=True))
        return replace(law, mass=mass) if cuts is None else replace(law, mass=mass, floor=floor, last=last)

    def chances(self, tokens: Tensor) -> Tensor:
        """The probabilities of tokens `[r, m]` at the first m places, float32."""
        m = tokens.shape[1]
        scaled = self.logits[self.at[:, :m], tokens].float() / self.temperatures
        p = (scaled - self.mass[:, :m]).exp()
        if self.floor is None or self.last is None:
            return p
        return p.masked_fill(_cut(scaled, tokens, self.floor[:, :m], self.last[:, :m]), 0.0)

    def whole(self, place: Tensor) -> Tensor:
        """The distribution at one place `[r]` of each row: `[r, vocab]`, float32."""
        n = self.at.shape[1]
        return self._probabilities(torch.arange(len(place), device=place.device) * n + place)

    def draw(self, u: Tensor) -> Tensor:
        """u `[r, n]` in (0, 1] -> a token for each place."""
        flat = u.reshape(-1)
        each = parts(flat.shape[0], self.logits.shape[1])
        return torch.cat([invert(self._probabilities(part), flat[part]) for part in each]).view(u.shape)

    def take(self, chosen: Tensor, other: Law) -> None:
        """Become `other` at the chosen places, bool `[r, n]`. Overwrites this law's logits."""
        self.logits[self.at[chosen]] = other.logits[other.at[chosen]]
        for mine, theirs in ((self.mass, other.mass), (self.floor, other.floor), (self.last, other.last)):
            if mine is not None and theirs is not None:
                mine[chosen] = theirs[chosen]

    def row(self, index: int) -> Law:
        """Of one row, `[1, n]`, over the same logits."""
        return self._each(slice(index, index + 1), slice(None))

    def first(self, count: int) -> Law:
        """Of at most that many places of each row."""
        return self._each(slice(None), slice(count))

    @classmethod
    def joined(cls, laws: list[Law | None], n: int, like: Tensor) -> Law:
        """Laws of one row each, one after the other, `n` places long. Where there is none, all tokens are equal."""
        vocab = like.shape[-1]
        r, device = len(laws), like.device
        logits = like.new_zeros(r * n, vocab)
        at = torch.arange(r * n, device=device).view(r, n)
        # The logits are 0: as many equal tokens.
        mass = torch.full((r, n), float(vocab), device=device).log_()
        floor = torch.full((r, n), -torch.inf, device=device)
        last = torch.full_like(at, vocab)
        temperatures = torch.ones(r, 1, device=device)
        for i, law in enumerate(laws):
            if law is None:
                continue
            count = law.at.shape[1]
            logits[i * n : i * n + count] = law.logits[law.at[0]]
            mass[i, :count], temperatures[i] = law.mass[0], law.temperatures[0]
            if law.floor is not None and law.last is not None:
                floor[i, :count], last[i, :count] = law.floor[0], law.last[0]
        return cls(logits, at, temperatures, mass, floor, last)

    def _each(self, rows: slice, places: slice) -> Law:
        at, mass = self.at[rows, places], self.mass[rows, places]
        floor = None if self.floor is None else self.floor[rows, places]
        last = None if self.last is None else self.last[rows, places]
        return Law(self.logits, at, self.temperatures[rows], mass, floor, last)

    def _scaled(self, part: slice | Tensor) -> Tensor:
        """Logits over temperature at some places, counted through: a copy `[places, vocab]`, float32."""
        temperatures = self.temperatures.expand(self.at.shape).reshape(-1)[part]
        return self.logits.index_select(0, self.at.reshape(-1)[part]).float().div_(temperatures[:, None])

    def _probabilities(self, part: slice | Tensor) -> Tensor:
        scaled = self._scaled(part)
        cut = None
        if self.floor is not None and self.last is not None:
            ids = torch.arange(scaled.shape[1], device=scaled.device)
            floor, last = self.floor.reshape(-1)[part], self.last.reshape(-1)[part]
            cut = _cut(scaled, ids, floor[:, None], last[:, None])
        p = scaled.sub_(self.mass.reshape(-1)[part][:, None]).exp_()
        return p if cut is None else p.masked_fill_(cut, 0.0)


def at_once(logits: int) -> int:
    """Of so many logits, how many are worked on at a time."""
    return min(max(logits // 4, _FEWEST), _MOST)


def log_mass(logits: Tensor) -> Tensor:
    """logits `[..., vocab]` of any type -> the logarithm of the sum of their exponentials `[...]`, float32."""
    flat = logits.reshape(-1, logits.shape[-1])
    masses = [flat[part].float().logsumexp(-1) for part in parts(*flat.shape)]
    return torch.cat(masses).view(logits.shape[:-1])


def invert(p: Tensor, u: Tensor) -> Tensor:
    """Tokens `[...]` at which the running sum of p `[..., vocab]` reaches u in (0, 1]; p need not be normalised.

    A token of probability 0 never comes out, because u > 0 and the sum does not grow there.
    """
    mass = p.cumsum(-1)
    return torch.searchsorted(mass, (u * mass[..., -1])[..., None]).squeeze(-1)


def parts(places: int, vocab: int) -> Iterator[slice]:
    """So many places with their logits, as many at a time as are worked on together."""
    size = max(1, at_once(places * vocab) // vocab)
    return (slice(start, min(start + size, places)) for start in range(0, places, size))


def _cut(scaled: Tensor, ids: Tensor, floor: Tensor, last: Tensor) -> Tensor:
    return (scaled < floor) | ((scaled == floor) & (ids > last))


def _mass_and_cut(scaled: Tensor, cuts: Cuts | None) -> tuple[Tensor, Tensor, Tensor]:
    """scaled `[places, vocab]`, cuts of each place -> mass, floor and last of `Law`, `[places]` each. Of equally likely
    tokens those with lower ids are kept."""
    mass, vocab = scaled.logsumexp(-1), scaled.shape[1]
    if cuts is None:
        return mass, mass, mass
    top_k = torch.where(cuts.top_k > 0, cuts.top_k, vocab)[:, None]
    # A full sort moves about 195 bytes per logit. Whole distributions and that sort took 662 ms for 2 rows of 16 places
    # at 131,072 tokens on a CPU, this way of drawing 82.
    ordered = scaled.topk(min(LIKELIEST, vocab), -1).values
    everything = (cuts.top_p >= 1.0) & (cuts.top_k <= 0) & (cuts.min_p <= 0)
    p = _within(ordered, mass, cuts, top_k)
    # Whether a place's cut lies within its likeliest tokens.
    reached = (p[:, -1] == 0) | ((cuts.top_k <= 0) & (cuts.min_p <= 0) & (p.sum(-1) >= cuts.top_p)) | everything
    if ordered.shape[1] < vocab and not bool(reached.all()):
        ordered = scaled.sort(-1, descending=True).values
        p = _within(ordered, mass, cuts, top_k)
    sums = p.cumsum(-1)
    whole = torch.where((cuts.top_k > 0) | (cuts.min_p > 0), sums[:, -1], 1.0)
    # By rounding the sum may reach its whole before the last token.
    wanted = torch.where(cuts.top_p >= 1.0, torch.inf, cuts.top_p * whole)[:, None]
    count = (((sums - p) < wanted) & (p > 0)).sum(-1, keepdim=True).clamp(min=1)
    floor, kept = ordered.gather(-1, count - 1), sums.gather(-1, count - 1)[:, 0]
    # Logits in bfloat16 are often equal: without an order among these top-k would keep more than k.
    ties = count - (ordered > floor).sum(-1, keepdim=True)
    last = ((scaled == floor).cumsum(-1, dtype=torch.int32) < ties).sum(-1)
    floor = floor[:, 0].masked_fill(everything, -torch.inf)
    return torch.where(everything, mass, mass + kept.log()), floor, last.masked_fill(everything, vocab)


def _within(ordered: Tensor, mass: Tensor, cuts: Cuts, top_k: Tensor) -> Tensor:
    """Probabilities of the likeliest tokens `[places, some]`, in order; 0 beyond min-p and top-k."""
    p = (ordered - mass[:, None]).exp_()
    beyond = torch.arange(p.shape[1], device=p.device) >= top_k
    return p.masked_fill_(beyond | (p < cuts.min_p[:, None] * p[:, :1]), 0.0)
