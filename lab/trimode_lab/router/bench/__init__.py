"""What the router costs, in CPU time of its process (`python -m trimode_lab.router.bench`).

Upstream, router and client are processes of their own. CPU time is read from /proc, so it holds on a busy machine too;
wall-clock figures do not.
"""
