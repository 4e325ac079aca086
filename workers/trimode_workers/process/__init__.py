"""The engine's process and the asyncio client that the shell talks to it through.

Belongs here: starting, framing, the loop around the engine, noticing death. Only `build` imports torch, and only
in the engine's own process.
"""
