"""The SDEs of optimizers, as torchsde models: one file, one equation."""

from sdeverify.sdes.adam import Adam
from sdeverify.sdes.derive import derive
from sdeverify.sdes.description import Description
from sdeverify.sdes.flow import GradientFlow
from sdeverify.sdes.rmsprop import RMSprop
from sdeverify.sdes.sde import SDE, GradientSDE
from sdeverify.sdes.sgd import SGDFirstOrder, SGDSecondOrder
from sdeverify.sdes.sgd_momentum import SGDMomentum

__all__ = [
    "SDE",
    "Adam",
    "Description",
    "GradientFlow",
    "GradientSDE",
    "RMSprop",
    "SGDFirstOrder",
    "SGDMomentum",
    "SGDSecondOrder",
    "derive",
]
