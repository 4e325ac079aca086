"""Stand-ins of the workers' neighbours, for tests: real sockets, nothing behind them."""
