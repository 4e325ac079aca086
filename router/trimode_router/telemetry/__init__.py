"""What the router shows of itself: metrics, logs, traces, accounting."""
