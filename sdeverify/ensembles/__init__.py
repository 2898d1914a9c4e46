"""Ensembles of optimizers and SDEs, computed block by block."""
