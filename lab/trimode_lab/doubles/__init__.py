"""Doubles of what trimode talks to, for unit tests and load."""
