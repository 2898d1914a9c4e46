"""Discrete optimizers as pure update rules on ensembles."""

from sdeverify.optimizers.adam import Adam
from sdeverify.optimizers.optimizer import Optimizer
from sdeverify.optimizers.rmsprop import RMSprop
from sdeverify.optimizers.sgd import SGD, SGDMomentum

__all__ = ["SGD", "Adam", "Optimizer", "RMSprop", "SGDMomentum"]
