"""What the router knows of replicas: reports, policy, health probes, scale from zero."""
