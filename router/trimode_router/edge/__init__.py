"""The listening side: routes, the internal port, processes."""
