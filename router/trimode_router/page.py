"""The dashboard page, read once at import.

Belongs here: the page's bytes and the headers that keep it to itself.
"""

from importlib.resources import files

PAGE = files("trimode_router").joinpath("page.html").read_bytes()
PAGE_POLICY = (
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"cache-control", b"no-cache"),
    (b"x-content-type-options", b"nosniff"),
)
