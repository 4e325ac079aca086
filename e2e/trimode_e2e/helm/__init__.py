"""Helm, for tests: the real library, in a process of its own.

The project runs on Python 3.11, the library (`helm-sdkpy` on PyPI, which embeds Helm's Go code) needs 3.12. So it gets
an environment of its own in the cache folder, made once, and is asked over a pipe. `library` is the other end.
"""

from trimode_e2e.helm.client import Helm, HelmError, Rendered, helm_python

__all__ = ["Helm", "HelmError", "Rendered", "helm_python"]
