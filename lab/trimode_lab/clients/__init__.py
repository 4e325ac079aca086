"""Other people's clients, as they come from PyPI today, against a running endpoint."""
