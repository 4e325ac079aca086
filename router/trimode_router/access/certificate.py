"""The public port's certificate, read again whenever its files change.

A renewed certificate counts for new connections; those that are open keep theirs.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import ClassVar

import structlog

from trimode_router.access.reload import Stamp, stamp


class CertificateError(Exception):
    """The certificate or its key can not be used; the message is one line for a person."""


class Certificate:
    """`context` is what the server is given, once; which certificate it shows is looked up at each handshake.

    `problem` says why the files as they are now can not be used, empty where they can. Until they could for the first
    time nothing is `usable`: every handshake fails.
    """

    field: ClassVar[str] = "tlsCertificate"

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = certificate, key
        self._stamp: Stamp = None
        self._live: ssl.SSLContext | None = None
        self.problem = ""
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.sni_callback = self._choose
        self.refresh()

    @property
    def usable(self) -> bool:
        return self._live is not None

    def refresh(self) -> None:
        """Read the files again where one has changed; bad ones change nothing, and are logged once."""
        now = stamp(*self._files)
        if now == self._stamp:
            return
        self._stamp = now
        log = structlog.get_logger("access")
        try:
            self._live = read(*self._files)
        except CertificateError as error:
            self.problem = str(error)
            log.error("certificate", problem=self.problem, kept=self.usable)
        else:
            self.problem = ""
            log.info("certificate", file=str(self._files[0]))

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> int | None:
        """OpenSSL asks at every handshake, whether the client has named a server or not."""
        if self._live is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = self._live
        return None


def read(certificate: Path, key: Path) -> ssl.SSLContext:
    """A context that shows this certificate. Raises CertificateError."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    # `load_cert_chain` raises FileNotFoundError without a name: of two files it would not say which is missing.
    for file in (certificate, key):
        if not file.is_file():
            raise CertificateError(f"{file}: no such file")
    try:
        # With no password OpenSSL would ask for one on the terminal, which a server does not have: it would hang.
        context.load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        words = {"KEY_VALUES_MISMATCH": "the key is not the certificate's"}.get(error.reason or "")
        raise CertificateError(
            f"{certificate} with {key}: {words or 'not PEM of a certificate and its key'}"
        ) from error
    except OSError as error:
        raise CertificateError(f"{certificate} with {key}: {error.strerror}") from error
    return context
