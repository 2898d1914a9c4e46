"""From ensembles to weak errors, orders and verdicts; sees datasets only."""

from sdeverify.analysis.budget import replicas_needed
from sdeverify.analysis.order import estimate_order
from sdeverify.analysis.rungs import ladder
from sdeverify.analysis.verdict import Verdict, order_or_raise, overall_verdict
from sdeverify.analysis.weak_error import weak_error

__all__ = [
    "Verdict",
    "estimate_order",
    "ladder",
    "order_or_raise",
    "overall_verdict",
    "replicas_needed",
    "weak_error",
]
