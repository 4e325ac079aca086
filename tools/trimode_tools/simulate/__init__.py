"""`trimode simulate`: recorded or generated load through the policies, before a GPU is bought.

What is simulated is in `trimode_tools.simulator`.
"""
