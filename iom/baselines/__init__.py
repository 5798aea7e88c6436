"""Baselines: data-agnostic protections, with which every learned result is compared.

Each is made for an embedding size and a code shape, and hashes embeddings under a key. To add one, write its file and
add a line here.
"""

from collections.abc import Callable

from iom.baselines.binary import BioHash, BloomFilter, IndexingFirstOne, MlpHash, RandomProjectionSigns
from iom.baselines.index_of_max import GaussianRandomProjection, UniformRandomPermutation, framed
from iom.baselines.polyprotect import PolyProtect
from iom.baselines.protection import Protection
from iom.baselines.scalar import scalar
from iom.config import CodeConfig

BASELINES: dict[str, Callable[[int, CodeConfig, int], Protection]] = {
    "grp": GaussianRandomProjection,
    "urp": UniformRandomPermutation,
    "biohash": BioHash,
    "mlphash": MlpHash,
    "polyprotect": PolyProtect,
    "bloom": BloomFilter,
    "ifo": IndexingFirstOne,
    "sign": RandomProjectionSigns,
    **{f"scalar_{bits}bit": scalar(bits) for bits in (1, 2, 3, 4, 5)},
    "orthonormal": framed("orthonormal"),
    "simplex": framed("simplex"),
    "cross_polytope": framed("cross_polytope"),
    "orthonormal_refined": framed("orthonormal", refined=True),
    "simplex_refined": framed("simplex", refined=True),
    "cross_polytope_refined": framed("cross_polytope", refined=True),
    "grp_refined": framed("gaussian", refined=True),
}
"""Name to `(embedding_size, code shape, seed) -> Protection`."""
