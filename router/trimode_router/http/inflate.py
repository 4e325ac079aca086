"""Compressed request bodies: the content codings that the standard library knows, with a bound on the result. [pure]"""

from __future__ import annotations

import zlib

from trimode_api.errors import ApiError, shown
from trimode_router.http.outgoing import UnknownCoding

ACCEPTED = "gzip, deflate"
_GZIP, _ZLIB, _RAW = 31, 15, -15
"""zlib's `wbits` for the framings. Deflate means zlib's own (RFC 9110, 8.4.1.2), but some clients send it bare."""


def inflated(coding: bytes, body: bytes, most: int) -> bytes:
    """`body` as it was before its Content-Encoding.

    Raises ApiError: 415 for a coding that is not known, 413 beyond `most` bytes, 400 where it is damaged.
    """
    if coding in (b"", b"identity"):
        return body
    if coding in (b"gzip", b"x-gzip"):
        framing = _GZIP
    elif coding == b"deflate":
        framing = _ZLIB if body[:1] and body[0] & 15 == 8 else _RAW
    else:
        raise UnknownCoding(shown(coding.decode("latin-1"))[1:-1], ACCEPTED)
    name = coding.decode()
    engine = zlib.decompressobj(framing)
    try:
        # A few kilobytes can hold gigabytes: never more is made than may be kept.
        data = engine.decompress(body, most + 1)
    except zlib.error as error:
        raise ApiError(400, f"the request body is not valid {name}: {error}", code="invalid_body") from error
    if len(data) > most:
        raise ApiError(413, f"the request body, inflated, is longer than {most} bytes", code="body_too_large")
    # A gzip file may have several members (RFC 1952, 2.2): those behind the first would be dropped in silence.
    if not engine.eof or engine.unused_data:
        raise ApiError(400, f"the request body is not one whole {name} stream", code="invalid_body")
    return data
