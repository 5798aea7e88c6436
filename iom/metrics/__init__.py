"""Metrics of verification, identification and template protection, from distances: lower = more alike."""

from iom.metrics.bootstrap import Interval, PairSubjects, bootstrap_intervals, bootstrap_samples, rate_interval
from iom.metrics.identification import identification_intervals, search_gallery
from iom.metrics.protection import (
    degrees_of_freedom,
    effective_bits,
    linkability_floor,
    local_linkability,
    maximal_linkability,
    min_entropy,
    nominal_bits,
    symbol_entropy,
    system_linkability,
)
from iom.metrics.template_pooling import majority_codes, mean_by_media, mean_vectors
from iom.metrics.verification import (
    area_under_curve,
    equal_error_rate,
    error_curve,
    fnmr_at_fmr,
    histogram_curve,
    ten_fold_accuracy,
    threshold_at_fmr,
)

__all__ = [
    "Interval",
    "PairSubjects",
    "area_under_curve",
    "bootstrap_intervals",
    "bootstrap_samples",
    "degrees_of_freedom",
    "effective_bits",
    "equal_error_rate",
    "error_curve",
    "fnmr_at_fmr",
    "histogram_curve",
    "identification_intervals",
    "linkability_floor",
    "local_linkability",
    "majority_codes",
    "maximal_linkability",
    "mean_by_media",
    "mean_vectors",
    "min_entropy",
    "nominal_bits",
    "rate_interval",
    "search_gallery",
    "symbol_entropy",
    "system_linkability",
    "ten_fold_accuracy",
    "threshold_at_fmr",
]
