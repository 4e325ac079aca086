"""`trimode profile`: what an engine's cycles cost on this machine, as a file for the simulator."""
