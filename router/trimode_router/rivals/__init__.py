"""The router beside others on this machine, in one run: what each costs.

Belongs here: `python -m trimode_router.rivals` (`make bench-router`). Whoever is installed takes part; upstreams,
client and scenarios are those of `trimode_router.bench`. Rounds alternate: a busy machine is busy for everybody.
"""
