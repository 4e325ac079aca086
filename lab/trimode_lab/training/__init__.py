"""The training recipe of the tiny model: data, objective, optimiser, evaluation. Not used when serving."""
