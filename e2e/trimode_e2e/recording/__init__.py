"""What the real KubeRay writes into its statuses, recorded once for the operator's unit tests.

Belongs here: watching and trimming (`recorder`), and what is done to a fleet meanwhile (`scenarios`).
"""
