"""The router beside others on this machine, in one run: what each costs.

Belongs here: `python -m trimode_lab.router.rivals` (`make bench-router`). Whoever is installed takes part; upstreams,
client and scenarios are those of `trimode_lab.router.bench`. Rounds alternate: a busy machine is busy for everybody.
"""
