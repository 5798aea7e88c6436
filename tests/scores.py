"""Scores that several tests compare with."""

from iom.config import ScenarioConfig
from iom.evaluation.scores import code_scores, float_system


def float_scores(benchmark, embeddings):
    """Those of the unprotected embeddings."""
    (scores,) = code_scores(float_system(embeddings.shape[1]), benchmark, embeddings, ScenarioConfig(), seed=1)
    return scores
