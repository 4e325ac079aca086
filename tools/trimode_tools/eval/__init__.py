"""`trimode eval`: how right and how fast each operating point answers."""
