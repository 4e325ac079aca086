"""Stand-ins for tests: a hub on the loopback interface."""

from trimode_workers.sources.testing.hub import StandInHub

__all__ = ["StandInHub"]
