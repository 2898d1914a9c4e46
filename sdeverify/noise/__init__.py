"""Noise models: how a problem's gradient becomes noisy."""

from sdeverify.noise.amplified import AmplifiedNoise
from sdeverify.noise.gaussian import GaussianNoise, GaussianSurrogate
from sdeverify.noise.minibatch import MinibatchNoise, ShuffledEpochs
from sdeverify.noise.noise import Noise

__all__ = [
    "AmplifiedNoise",
    "GaussianNoise",
    "GaussianSurrogate",
    "MinibatchNoise",
    "Noise",
    "ShuffledEpochs",
]
