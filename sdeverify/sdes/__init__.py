"""The SDEs of optimizers, as torchsde models: one file, one equation."""

from sdeverify.sdes.adam import AdamSDE
from sdeverify.sdes.description import Description
from sdeverify.sdes.flow import GradientFlow
from sdeverify.sdes.rmsprop import RMSpropSDE
from sdeverify.sdes.sde import SDE, GradientSDE
from sdeverify.sdes.sgd import SGDFirstOrder, SGDSecondOrder
from sdeverify.sdes.sgd_momentum import SGDMomentumSDE

__all__ = [
    "SDE",
    "AdamSDE",
    "Description",
    "GradientFlow",
    "GradientSDE",
    "RMSpropSDE",
    "SGDFirstOrder",
    "SGDMomentumSDE",
    "SGDSecondOrder",
]
