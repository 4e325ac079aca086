"""One replica: an HTTP shell with its own port around an engine process, and the reports it sends.

Belongs here: settings, the shell, the reporter and their life together. Imports neither ray nor torch.
"""
