"""`trimode profile`: what an engine's cycles cost on this machine, as a file for the simulator.

Belongs here: the file's format, measuring, fitting, and the check of the simulator against the engine it was fed from.
"""
