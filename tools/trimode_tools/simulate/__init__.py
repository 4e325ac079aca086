"""`trimode simulate`: recorded or generated load through the policies, before a GPU is bought.

Belongs here: the edge of the simulator: files in, table, JSON and plots out. What is simulated is in
`trimode_tools.simulator`.
"""
