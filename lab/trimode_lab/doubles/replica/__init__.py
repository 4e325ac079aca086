"""Stand-ins of the router's neighbours, for tests and benchmarks: real sockets, no model."""
