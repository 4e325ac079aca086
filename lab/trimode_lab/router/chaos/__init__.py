"""Chaos: a steady load on a router whose replicas die, hang, lie and return, with an account of every request.

All parts are real processes on loopback; replicas tell stories that a client can check token by token.
"""
