"""A new SDE in one file, checked and certified: dX = -(grad f) dt + s Sigma^(1/2) dW for SGD."""

import math
from dataclasses import dataclass

import sdeverify as sv
from sdeverify.certify import certify
from sdeverify.faults import correct_studies
from sdeverify.sdes import Description, GradientSDE
from sdeverify.testing import check_sde


@dataclass(frozen=True)
class MySDE(GradientSDE):
    size: float  # s, the noise's size; dG = (grad f) dt + s Sigma^(1/2) dW comes from the base
    components = ("theta",)
    intensity = property(lambda self: self.size)
    constants = property(lambda self: {"size": self.size})

    @classmethod
    def of(cls, optimizer, oracle):
        return cls(
            oracle, optimizer.learning_rate * optimizer.refinement, cls.noise(optimizer, oracle)
        )

    noise = staticmethod(
        lambda optimizer, oracle: math.sqrt(optimizer.learning_rate) * oracle.scale
    )

    def rest(self, t, y, mean, variance):
        return {}  # no drift besides that of dG

    def inject(self, t, y, increment):
        return {"theta": -increment}

    @property
    def description(self):
        text, noise = {"size": (f"{self.size:g}", "size of the noise")}, "mini-batches"
        return Description(
            "mine", (), (), text, "t = k eta", noise, (), "weak order 1 in eta", "me"
        )


check_sde(MySDE, sv.SGD(learning_rate=0.1))
certificate = certify(sv.study.replace(correct_studies()["sgd"], sde=MySDE))
print(sv.overall_verdict(certificate["order"].to_dataset()))
