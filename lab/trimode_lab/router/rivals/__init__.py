"""Our router beside others of its kind, measured by `python -m trimode_lab.router.rivals` (`make bench-router`).

Every router that is installed takes part; upstreams, client and scenarios are those of `trimode_lab.router.bench`.
Rounds alternate, so that a busy machine is busy for all of them.
"""
