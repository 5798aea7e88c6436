"""Data-agnostic protections: what every learned result is compared with.

Each is made for an embedding size and a code shape, and hashes embeddings under a key. To add one,
write its file and add a line here.
"""

from collections.abc import Callable

from iom.baselines.grp import GaussianRandomProjection
from iom.baselines.protection import Protection
from iom.baselines.urp import UniformRandomPermutation
from iom.config.hashing import HasherConfig

BASELINES: dict[str, Callable[[int, HasherConfig, int], Protection]] = {
    "grp": GaussianRandomProjection,
    "urp": UniformRandomPermutation,
}
"""Name to `(embedding_size, code shape, seed) -> Protection`."""
