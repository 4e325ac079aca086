"""What measures and simulates a deployment: simulate, profile, eval, bench."""
