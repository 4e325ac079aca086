"""What the router tells: metrics, logs, traces, accounting."""
