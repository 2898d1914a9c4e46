"""Planted faults: a catalogue of wrong SDEs, ladders, coordinates and starts."""

from sdeverify.testing.faults import adam, momentum, rmsprop, sgd
from sdeverify.testing.faults.correct import correct_studies
from sdeverify.testing.faults.fault import Fault

__all__ = ["Fault", "catalogue", "correct_studies"]


def catalogue() -> list[Fault]:
    """All planted faults."""
    return [*sgd.faults(), *momentum.faults(), *rmsprop.faults(), *adam.faults()]
