from sdeverify import sdes as sdes
from sdeverify import testing as testing
from sdeverify.analysis import (
    estimate_order as estimate_order,
)
from sdeverify.analysis import (
    ladder as ladder,
)
from sdeverify.analysis import (
    order_or_raise as order_or_raise,
)
from sdeverify.analysis import (
    overall_verdict as overall_verdict,
)
from sdeverify.analysis import (
    replicas_needed as replicas_needed,
)
from sdeverify.analysis import (
    weak_error as weak_error,
)
from sdeverify.analysis.allocation import (
    best_allocation as best_allocation,
)
from sdeverify.analysis.extrapolation import (
    extrapolate_levels as extrapolate_levels,
)
from sdeverify.base.state import State as State
from sdeverify.ensembles import measures as measures
from sdeverify.ensembles.coupling.coupled import Coupled as Coupled
from sdeverify.ensembles.coupling.plan import CoupledPlan as CoupledPlan
from sdeverify.ensembles.coupling.plan import coupled_plan as coupled_plan
from sdeverify.ensembles.coupling.weak_error import coupled_ladder as coupled_ladder
from sdeverify.ensembles.coupling.weak_error import coupled_weak_error as coupled_weak_error
from sdeverify.ensembles.observables import Observable as Observable
from sdeverify.ensembles.plan import Plan as Plan
from sdeverify.ensembles.plan import plan as plan
from sdeverify.ensembles.solve import simulate as simulate
from sdeverify.ensembles.solve import solve as solve
from sdeverify.ensembles.warm_up import warm_up as warm_up
from sdeverify.errors import (
    InconclusiveError as InconclusiveError,
)
from sdeverify.errors import (
    InvalidInputError as InvalidInputError,
)
from sdeverify.errors import (
    SdeverifyError as SdeverifyError,
)
from sdeverify.errors import (
    StoreError as StoreError,
)
from sdeverify.errors import (
    UnsupportedError as UnsupportedError,
)
from sdeverify.exact import exact_weak_error as exact_weak_error
from sdeverify.exact.certify_integrator import certify_integrator as certify_integrator
from sdeverify.exact.consistency import consistency as consistency
from sdeverify.noise import (
    AmplifiedNoise as AmplifiedNoise,
)
from sdeverify.noise import (
    GaussianNoise as GaussianNoise,
)
from sdeverify.noise import (
    GaussianSurrogate as GaussianSurrogate,
)
from sdeverify.noise import (
    MinibatchNoise as MinibatchNoise,
)
from sdeverify.noise import (
    Noise as Noise,
)
from sdeverify.noise import (
    ShuffledEpochs as ShuffledEpochs,
)
from sdeverify.noise.oracle import GradientOracle as GradientOracle
from sdeverify.noise.statistics import noise_statistics as noise_statistics
from sdeverify.optimizers import (
    SGD as SGD,
)
from sdeverify.optimizers import (
    Adam as Adam,
)
from sdeverify.optimizers import (
    Optimizer as Optimizer,
)
from sdeverify.optimizers import (
    RMSprop as RMSprop,
)
from sdeverify.optimizers import (
    SGDMomentum as SGDMomentum,
)
from sdeverify.optimizers.derive import derive as derive
from sdeverify.optimizers.from_torch import (
    optimizer_from_torch as optimizer_from_torch,
)
from sdeverify.optimizers.ladders import BallisticRates as BallisticRates
from sdeverify.optimizers.ladders import Ladder as Ladder
from sdeverify.optimizers.ladders import LearningRates as LearningRates
from sdeverify.optimizers.ladders import SvagLevels as SvagLevels
from sdeverify.optimizers.ladders import svag as svag
from sdeverify.optimizers.rules import BatchRule as BatchRule
from sdeverify.optimizers.rules import Change as Change
from sdeverify.optimizers.start import (
    start_from_torch as start_from_torch,
)
from sdeverify.problems.gradients.parameters import flatten_parameters as flatten_parameters
from sdeverify.problems.module import (
    ModuleProblem as ModuleProblem,
)
from sdeverify.problems.module import (
    problem_from_module as problem_from_module,
)
from sdeverify.problems.problem import (
    FunctionProblem as FunctionProblem,
)
from sdeverify.problems.problem import (
    Problem as Problem,
)
from sdeverify.report import (
    write_report as write_report,
)
from sdeverify.scaling.experiment import scaling_experiment as scaling_experiment
from sdeverify.scaling.scale import largest_kappa as largest_kappa
from sdeverify.scaling.scale import scale as scale
from sdeverify.scaling.scale import scale_batch as scale_batch
from sdeverify.scaling.scale import scale_state as scale_state
from sdeverify.scaling.study import ScalingStudy as ScalingStudy
from sdeverify.scaling.torch_svag import TorchSVAG as TorchSVAG
from sdeverify.scaling.validity import validity as validity
from sdeverify.sdes import (
    SDE as SDE,
)
from sdeverify.sdes import (
    GradientFlow as GradientFlow,
)
from sdeverify.sdes import (
    GradientSDE as GradientSDE,
)
from sdeverify.study.campaign import Campaign as Campaign
from sdeverify.study.campaign import run as run
from sdeverify.study.certify import certify as certify
from sdeverify.study.four_views import four_views as four_views
from sdeverify.study.four_views import views_table as views_table
from sdeverify.study.store import Store as Store
from sdeverify.study.study import Study as Study
from sdeverify.study.verify import verify as verify
from sdeverify.training.noise_meter import NoiseMeter as NoiseMeter
from sdeverify.training.recorder import Recorder as Recorder

__version__: str
