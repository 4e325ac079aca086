"""Who may ask, for which tiers, and how much: API keys, tenants, budgets.

The key file is read again whenever it changes. It holds SHA-256 digests only: keys are long and random
(`python -m trimode_router.access` makes one), so a digest gives nothing away.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import ceil
from pathlib import Path
from typing import ClassVar, Self

import structlog
from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from trimode_api.errors import ApiError, problems_of
from trimode_api.wire import WireModel
from trimode_router.access.budget import Budget, Counts, of_tenant
from trimode_router.access.reload import Stamp, stamp

_BEARER = b"bearer "
_PREFIX = "tm-"
_SHORT = 8
_DIGEST = re.compile(r"[0-9a-f]{64}")


class TenantEntry(WireModel):
    """One tenant. Budgets are per minute, of all copies of the router together; 0 is no limit. No `tiers` means all of
    them."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1)
    tiers: tuple[str, ...] = ()
    default_tier: str | None = None
    requests_per_minute: int = Field(default=0, ge=0)
    tokens_per_minute: int = Field(default=0, ge=0, description="prompt (estimated) and answer")

    @model_validator(mode="after")
    def _default_is_allowed(self) -> Self:
        if self.tiers and self.default_tier is not None and self.default_tier not in self.tiers:
            raise ValueError(f"defaultTier: {self.default_tier!r} is not among tiers {list(self.tiers)}")
        return self


class KeyEntry(WireModel):
    """One key of a tenant, by its digest."""

    model_config = ConfigDict(extra="forbid")

    name: str = ""
    tenant: str = Field(min_length=1)
    sha256: str

    @field_validator("sha256", mode="before")
    @classmethod
    def _is_a_digest(cls, value: object) -> object:
        """Words of our own: pydantic's would quote the value, and what stands here by mistake is the key itself."""
        if not isinstance(value, str) or not _DIGEST.fullmatch(value):
            raise ValueError("must be the key's SHA-256 digest, 64 digits of 0-9a-f (python -m trimode_router.access)")
        return value


class KeyFile(WireModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid")

    tenants: tuple[TenantEntry, ...]
    keys: tuple[KeyEntry, ...]

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        names = [tenant.name for tenant in self.tenants]
        if doubled := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"tenants: named twice: {sorted(doubled)}")
        for key in self.keys:
            if key.tenant not in names:
                raise ValueError(f"keys: tenant {key.tenant!r} is not among tenants {names}")
        return self


class AccessError(Exception):
    """The key file can not be used; the message is one line for a person."""


@dataclass(slots=True)
class Tenant:
    """A tenant at work. A change of the file keeps what is left of budgets that it does not change."""

    entry: TenantEntry
    requests: Budget
    tokens: Budget

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def limited(self) -> bool:
        return self.requests.limited or self.tokens.limited

    def tier(self, asked: str | None) -> str | None:
        """The tier to use, None for the policy's default. ApiError 403 where it is not for this tenant."""
        tiers = self.entry.tiers
        if asked is None:
            return self.entry.default_tier or (tiers[0] if tiers else None)
        if tiers and asked not in tiers:
            raise ApiError(
                403,
                f"x-trimode-tier: {asked!r} is not for this key; allowed: {', '.join(tiers)}",
                code="tier_not_allowed",
            )
        return asked

    def enter(self, now: float) -> None:
        """Take one request in. ApiError 429 where a budget is spent."""
        if (seconds := self.requests.wait(now)) > 0:
            raise _spent(f"{self.entry.requests_per_minute} requests", "rate_limit_exceeded", seconds)
        if (seconds := self.tokens.wait(now)) > 0:
            raise _spent(f"{self.entry.tokens_per_minute} tokens", "token_budget_exceeded", seconds)
        self.requests.spend(1)


def _spent(what: str, code: str, seconds: float) -> ApiError:
    message = f"this key's {what} a minute are spent"
    return ApiError(429, message, code=code, retry_after_s=max(1, ceil(seconds)))


class Access:
    """The keys of a file. Without a file every request is served.

    `problem` says why the file as it is now can not be used, empty where it can. Until it could for the first time
    nothing is `usable`, and every request is refused.
    """

    field: ClassVar[str] = "keysFile"

    def __init__(self, file: Path | None, now: float = 0.0) -> None:
        self._file = file
        self._stamp: Stamp = None
        self._tenants: dict[str, Tenant] = {}
        self._keys: dict[bytes, tuple[bytes, Tenant]] = {}
        self._name = secrets.token_hex(8)
        self.usable = file is None
        self.problem = ""
        self.refresh(now)

    @property
    def on(self) -> bool:
        return self._file is not None

    def tenant_of(self, authorization: bytes | None) -> Tenant | None:
        """Whose request it is; None where keys are off. ApiError 401 for a missing or unknown key, 503 without keys
        to compare it with."""
        if self._file is None:
            return None
        if not self.usable:
            raise ApiError(503, "the router cannot read its API keys yet", code="no_api_keys", retry_after_s=5)
        # The scheme's name is in any case (RFC 9110, 11.1).
        if authorization is None or authorization[:7].lower() != _BEARER:
            raise ApiError(401, "no API key: send `Authorization: Bearer <key>`", code="missing_api_key")
        digest = sha256(authorization[7:].strip()).digest()
        found = self._keys.get(digest[:_SHORT])
        # The look-up is by a part of the digest; whether it is the key is compared in constant time.
        tenant = None if found is None or not hmac.compare_digest(found[0], digest) else found[1]
        if tenant is None:
            raise ApiError(401, "the API key is not known", code="invalid_api_key")
        return tenant

    @property
    def limited(self) -> bool:
        """Whether some tenant has a budget."""
        return any(tenant.limited for tenant in self._tenants.values())

    def counts(self, now: float) -> Counts:
        """What other copies of the router must know of this one: of budgets from which something was spent here."""
        spenders = [t for t in self._tenants.values() if t.limited and (t.requests.spent or t.tokens.spent)]
        return Counts(self._name, {t.name: (t.requests.told(now), t.tokens.told(now)) for t in spenders})

    def hear(self, heard: Sequence[Counts], silent: int, now: float) -> None:
        """Take in what other copies of the router say, and how many say nothing but may be there."""
        others = [counts for counts in heard if counts.name != self._name]
        copies = 1 + len(others) + silent
        for tenant in self._tenants.values():
            if tenant.limited:
                requests, tokens = of_tenant(others, tenant.name)
                tenant.requests.hear(requests, copies, now)
                tenant.tokens.hear(tokens, copies, now)

    def refresh(self, now: float) -> None:
        """Read the file again where it has changed; a bad one changes nothing, and is logged once."""
        if self._file is None or (seen := stamp(self._file)) == self._stamp:
            return
        self._stamp = seen
        log = structlog.get_logger("access")
        try:
            file = read(self._file)
        except AccessError as error:
            self.problem = str(error)
            log.error("keys", problem=self.problem, kept=len(self._keys))
        else:
            tenants: dict[str, Tenant] = {}
            for entry in file.tenants:
                requests, tokens = Budget(entry.requests_per_minute, now), Budget(entry.tokens_per_minute, now)
                known = self._tenants.get(entry.name)
                # A key that is added to the file must not fill up every budget in it.
                if known is not None and known.entry.requests_per_minute == entry.requests_per_minute:
                    requests = known.requests
                if known is not None and known.entry.tokens_per_minute == entry.tokens_per_minute:
                    tokens = known.tokens
                tenants[entry.name] = Tenant(entry, requests, tokens)
            self._tenants = tenants
            digests = [(bytes.fromhex(key.sha256), self._tenants[key.tenant]) for key in file.keys]
            self._keys = {digest[:_SHORT]: (digest, tenant) for digest, tenant in digests}
            self.usable, self.problem = True, ""
            log.info("keys", tenants=len(self._tenants), keys=len(self._keys))


def read(file: Path) -> KeyFile:
    """The file's content. Raises AccessError."""
    try:
        return KeyFile.from_wire(file.read_bytes())
    except OSError as error:
        raise AccessError(f"{file}: {error.strerror}") from error
    except ValidationError as error:
        # Without the values: a key that was put where its digest belongs would stand in the log.
        raise AccessError(f"{file}: {'; '.join(map(str, problems_of(error, secret=True)))}") from error


def new_key() -> tuple[str, str]:
    """A key, and the digest for the file."""
    key = _PREFIX + secrets.token_urlsafe(32)
    return key, sha256(key.encode()).hexdigest()
