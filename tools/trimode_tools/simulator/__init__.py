"""A fleet in virtual time: discrete events over the same functions that production runs.

Pure: no I/O, no clock, randomness injected. Reading traces and writing results is the command's business.
"""
