"""A new SDE for SGD, dX = -(grad f) dt + s Sigma^(1/2) dW: written, checked, certified."""

from dataclasses import dataclass, replace

import sdeverify as sv
from sdeverify.study.certify import certify
from sdeverify.testing import check_sde
from sdeverify.testing.faults import correct_studies


@dataclass(frozen=True)
class NoisyFlow(sv.GradientSDE):
    intensity: float = 0.0  # s, in the increment dG = (grad f) dt + s Sigma^(1/2) dW
    components = ("theta",)

    @classmethod
    def of(cls, optimizer, oracle):
        size = optimizer.learning_rate**0.5 * oracle.scale  # constant along SVAG levels
        return cls(oracle, optimizer.learning_rate * optimizer.refinement, size)

    def rest(self, t, y, mean, variance):
        return {}  # no drift besides that of dG

    def inject(self, t, y, increment):
        return {"theta": -increment}

    @property
    def constants(self):
        return {"size of the noise": self.intensity}

    @property
    def description(self):
        known = sv.sdes.SGDFirstOrder(self.oracle, self.time_per_level1_step, self.intensity**2)
        return replace(known.description, name="noisy flow")


check_sde(NoisyFlow, sv.SGD(learning_rate=0.1))
certificate = certify(replace(correct_studies()["sgd"], sde=NoisyFlow))
print(sv.overall_verdict(certificate["sgd/order"].to_dataset()))
