"""One request: parsing, its exchange with a replica, what was sent, how it ends."""
