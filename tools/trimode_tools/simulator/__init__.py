"""A fleet in virtual time: discrete events over the same functions that production runs.

Belongs here: workloads, the simulated engine and fleet, the policies compared, the oracle and its bound. Pure: no I/O,
no clock, randomness injected. Reading traces and writing results is the command's business.
"""
