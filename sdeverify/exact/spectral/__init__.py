"""Expectations on grids: a random map pushed forward, a generator integrated in time."""
