"""Answers that follow a JSON schema, by llguidance: which tokens may come next, given those that came.

Belongs here: all that knows the library. No tensors, no HTTP; what is done with a refused token is the engine's.
"""
