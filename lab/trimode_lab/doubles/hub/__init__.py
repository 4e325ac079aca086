"""Stand-ins for tests: a hub on the loopback interface."""

from trimode_lab.doubles.hub.hub import StandInHub

__all__ = ["StandInHub"]
