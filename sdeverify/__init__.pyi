from sdeverify import measures as measures
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
from sdeverify.answer import (
    verify as verify,
)
from sdeverify.batch_experiment import scaling_experiment as scaling_experiment
from sdeverify.batch_scaling import (
    largest_kappa as largest_kappa,
)
from sdeverify.batch_scaling import (
    scale as scale,
)
from sdeverify.batch_scaling import (
    scale_batch as scale_batch,
)
from sdeverify.batch_scaling import (
    scale_state as scale_state,
)
from sdeverify.campaign import (
    Campaign as Campaign,
)
from sdeverify.campaign import (
    run as run,
)
from sdeverify.certificate import certify as certify
from sdeverify.ensembles import (
    simulate as simulate,
)
from sdeverify.ensembles import (
    solve as solve,
)
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
from sdeverify.gradient_noise import (
    noise_statistics as noise_statistics,
)
from sdeverify.integrator_certificate import certify_integrator as certify_integrator
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
from sdeverify.noise_dominance import validity as validity
from sdeverify.observables import (
    Observable as Observable,
)
from sdeverify.one_step import consistency as consistency
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
from sdeverify.optimizers.from_torch import (
    optimizer_from_torch as optimizer_from_torch,
)
from sdeverify.optimizers.start import (
    start_from_torch as start_from_torch,
)
from sdeverify.oracle import (
    GradientOracle as GradientOracle,
)
from sdeverify.planning import Plan as Plan
from sdeverify.planning import plan as plan
from sdeverify.problems.module import (
    ModuleProblem as ModuleProblem,
)
from sdeverify.problems.module import (
    problem_from_module as problem_from_module,
)
from sdeverify.problems.parameters import (
    flatten_parameters as flatten_parameters,
)
from sdeverify.problems.problem import (
    FunctionProblem as FunctionProblem,
)
from sdeverify.problems.problem import (
    Problem as Problem,
)
from sdeverify.reference import exact_weak_error as exact_weak_error
from sdeverify.report import (
    write_report as write_report,
)
from sdeverify.scaling_study import ScalingStudy as ScalingStudy
from sdeverify.scalings import (
    BallisticRates as BallisticRates,
)
from sdeverify.scalings import (
    Ladder as Ladder,
)
from sdeverify.scalings import (
    LearningRates as LearningRates,
)
from sdeverify.scalings import (
    SvagLevels as SvagLevels,
)
from sdeverify.scalings import (
    svag as svag,
)
from sdeverify.sdes import (
    SDE as SDE,
)
from sdeverify.sdes import (
    GradientFlow as GradientFlow,
)
from sdeverify.sdes import (
    GradientSDE as GradientSDE,
)
from sdeverify.sdes import (
    derive as derive,
)
from sdeverify.starting import (
    warm_up as warm_up,
)
from sdeverify.state import (
    State as State,
)
from sdeverify.store import (
    Store as Store,
)
from sdeverify.study import (
    Study as Study,
)
from sdeverify.torch_svag import TorchSVAG as TorchSVAG
from sdeverify.views import four_views as four_views
from sdeverify.views import views_table as views_table

__version__: str
