"""Several enrolment images of a subject as one reference: the mean vector, or a vote of symbols."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iom._names import FUSIONS
from iom._registry import lookup
from iom.errors import EnrolmentError
from iom.gallery.templates import rows_of
from iom.keys import TransformKey
from iom.metrics.template_pooling import majority_codes, mean_vectors
from iom.models.face_hasher import ForwardingFaceHasher, Keys

Rows = NDArray[np.float32]


class MajorityHasher(ForwardingFaceHasher):
    """A hasher that takes several embeddings in one row and votes at each position.

    The key of a record is known only where it is hashed, so the images of a subject come there side
    by side, `(N, k D)`, are hashed under the same key, and the commonest symbol at each position
    counts, the lowest of equally common ones. Rows of one embedding give the codes they always do.

    Ties go to the lowest symbol, since to take the image that agrees most with the others makes of
    two images simply the first. Between more images the two rules are alike.

    Args:
        hasher: Makes the codes.
    """

    def hash(self, embeddings: Rows, keys: Keys) -> NDArray[np.uint8]:
        """Codes `(N, M)` of rows `(N, k D)`.

        Raises:
            EnrolmentError: Rows that are not whole embeddings.
        """
        rows = np.asarray(embeddings, np.float32)
        images, rest = divmod(rows.shape[1], self.embedding_size)
        if rest or not images:
            raise EnrolmentError(
                f"expected rows of whole embeddings of size {self.embedding_size}, received {rows.shape}"
            )
        if images == 1:
            return self._hasher.hash(rows, keys)
        if not isinstance(keys, TransformKey):
            keys = [key for key in keys for _ in range(images)]
        codes = self._hasher.hash(rows.reshape(-1, self.embedding_size), keys)
        return majority_codes(codes, np.repeat(np.arange(len(rows)), images), self.alphabet_size)


def _centroid(rows: Rows) -> Rows:
    return mean_vectors(rows, np.zeros(len(rows), np.int64)).astype(np.float32)


_STEPS: tuple[Callable[[Rows], Rows], ...] = (lambda rows: rows, _centroid, lambda rows: rows.reshape(1, -1))
_FUNCTIONS = dict(zip(FUSIONS, _STEPS, strict=True))
"""What `Gallery.enroll` is given for the images of a subject: each, their mean, or all as one row,
for a gallery over a `MajorityHasher`."""


def fuse(embeddings: NDArray[Any], how: str) -> Rows:
    """Rows to enrol for the images of one subject, `(k, D)` unit length, by a name of `FUSIONS`.

    Raises:
        ConfigError: Unknown name.
        DataError: The mean has no direction.
    """
    return lookup(_FUNCTIONS, how, "fusion")(rows_of(embeddings))
