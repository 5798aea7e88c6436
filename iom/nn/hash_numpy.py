"""The hash of an artefact in NumPy: from stored or fused embeddings and keys to codes.

An artefact goes from pixels to codes. A gallery also hashes stored embeddings, under other keys; for that this small
copy of the network behind the embedding lies beside each artefact. It agrees with the artefact but for near ties.
Functions that take `xp`, NumPy or `keras.ops`, are those that the Keras layers compute with, too.
"""

import functools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iom._blas import one_thread
from iom._files import atomic_path
from iom._untrusted import parse_json, read_arrays
from iom.codes.asymmetric import CodeVectors
from iom.errors import ConfigError, WeightsError
from iom.keys import KEY_KINDS, ROTATION_ROUNDS
from iom.nn.frames import PRODUCT, block_size, draw_frame, drawn_codebook, product_kernel

if TYPE_CHECKING:
    from iom.config import HasherConfig

Array = NDArray[Any]
FLOOR = 1e-12
RATE = 1.0
"""Length of the first correction, in units of the remainder."""
DECAY = 0.5
"""Correction k is shorter by 1 + DECAY k, so that the steps settle."""
REACH = 16
"""Positions whose choice a position of a product frame with a window of 2 takes into account, to either side."""
PROGRAM = "program"
PROJECTION = "projection"
SUFFIX = ".head.npz"


def head_path(artefact: Path) -> Path:
    """The head of an artefact: its name and `.head.npz`."""
    return artefact.with_name(artefact.name + SUFFIX)


def padded_batches(size: int, *arrays: Array) -> Iterator[tuple[slice, list[Array]]]:
    """Rows of `arrays`, always `size` at a time, the last ones filled up with zeros, and the slice they come from.

    Another batch size may round differently, and flip a near tie.
    """
    for start in range(0, len(arrays[0]), size):
        part = slice(start, min(start + size, len(arrays[0])))
        batches = [np.zeros((size, *array.shape[1:]), array.dtype) for array in arrays]
        for batch, array in zip(batches, arrays, strict=True):
            batch[: part.stop - start] = array[part]
        yield part, batches


class Head:
    """Steps from embedding and order to code, and the arrays that their settings name.

    A step is a name in `STEPS`, the numbers of the values it reads (0 the embedding, 1 the order, then the results of
    the steps before), and its settings.
    """

    def __init__(self, steps: list[dict[str, Any]], arrays: dict[str, Array]) -> None:
        self._steps = []
        for step in steps:
            found = {name: arrays[key] for name, key in step["arrays"].items()}
            function = STEPS[step["step"]]
            made = function() if isinstance(function, type) else function
            self._steps.append((step["step"], made, step["reads"], {**step["settings"], **found}))

    @classmethod
    def load(cls, path: Path) -> "Head":
        """Read the file that an export wrote."""
        steps, arrays = read_head(path)
        try:
            return cls(steps, arrays)
        except (ValueError, KeyError, TypeError) as error:
            raise _damaged(path, error) from error

    def hash(self, rows: NDArray[np.float32], orders: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Codes `(N, M)` of embeddings `(N, D)` under orders `(N, W)`."""
        codes: NDArray[np.uint8] = np.argmax(self._run(self._steps, rows, orders), axis=-1).astype(np.uint8)
        return codes

    def keyed_rows(self, rows: NDArray[np.float32], orders: NDArray[np.int32]) -> NDArray[np.float32]:
        """Rows `(N, K)` that enter the projection, before any refinement, of embeddings `(N, D)` under orders."""
        number = self._projection_step
        result: NDArray[np.float32] = self._run(self._steps[:number], rows, orders)
        return result

    @functools.cached_property
    def vectors(self) -> CodeVectors:
        """What the symbols of a code stand for."""
        name, _, _, settings = self._steps[self._projection_step]
        if name == PRODUCT:
            codebook, bias = settings["codebook"], settings["half_norm_bias"]
            kernel = product_kernel(codebook, settings["code_length"], settings.get("window", 1))
            return CodeVectors.of_kernel(kernel, codebook.shape[1], centred=not bias)
        return CodeVectors.of_kernel(settings["kernel"], settings["alphabet_size"])

    @property
    def _projection_step(self) -> int:
        """Number of the step that makes the responses, the last one."""
        name, _, reads, _ = self._steps[-1]
        if name not in (PROJECTION, PRODUCT) or reads != [len(self._steps)]:
            raise WeightsError("the last step of this hash is no projection of the row before it; export again")
        return len(self._steps) - 1

    @staticmethod
    def _run(steps: list[Any], rows: NDArray[np.float32], orders: NDArray[np.int32]) -> Array:
        values: list[Array] = [rows, orders]
        with one_thread():
            for _, step, reads, settings in steps:
                values.append(step(*(values[number] for number in reads), **settings))
        return values[-1]

    def disclosed(self, embedding_size: int) -> tuple[Array | None, Callable[[Array, Array], Array], Array, bool]:
        """Parts that an attacker who has it knows: map before the key, function of the key, projection kernel, bias.

        The map is `(D, K)`, `None` where a hidden layer bends it; the function takes rows and orders to rows. Steps
        that only change the length of a row are left out: they change no code, and with a half-norm bias (the last
        part says whether there is one) rows are of unit length.
        """
        linear: Array | None = np.eye(embedding_size, dtype=np.float32)
        kernel: Array = np.zeros(0, np.float32)
        bias = False
        keyed: Callable[[Array, Array], Array] = functools.partial(_permutation, keep=0)
        for name, step, _, settings in self._steps:
            if name in {kind.step for kind in KEY_KINDS.values()}:
                keyed = functools.partial(step, **settings)
            elif name == PROJECTION:
                kernel = settings["kernel"]
            elif name == PRODUCT:
                shape = settings["code_length"], settings.get("window", 1)
                kernel, bias = product_kernel(settings["codebook"], *shape), settings["half_norm_bias"]
            elif name == "dense" and "bias" not in settings and linear is not None:
                linear = linear @ settings["kernel"]
            elif name != "unit":
                linear = None
        return linear, keyed, kernel, bias


def read_head(path: Path) -> tuple[list[dict[str, Any]], dict[str, Array]]:
    """Steps and arrays, in float32, of the file that an export wrote; `WeightsError` where it is damaged."""
    try:
        arrays = read_arrays(path)
        steps = parse_json(arrays.pop(PROGRAM).tobytes())
        return steps, {name: np.asarray(value, np.float32) for name, value in arrays.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> WeightsError:
    return WeightsError(f"{path}: missing or damaged: {error}; export again")


def write_head(path: Path, steps: list[dict[str, Any]], arrays: dict[str, Array]) -> None:
    """Write the steps of a hash network and their arrays, as `Head.load` reads them."""
    stored: dict[str, Any] = {}
    for name, array in arrays.items():
        half = array.astype(np.float16)
        stored[name] = half if np.array_equal(half, array) else array  # a frozen or stored projection
    stored[PROGRAM] = np.frombuffer(json.dumps(steps).encode(), np.uint8)
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, **stored)


def untrained_head(
    embedding_size: int, config: "HasherConfig", *, seed: int, whitening: Array | None = None
) -> tuple[list[dict[str, Any]], dict[str, Array]]:
    """Steps and arrays of the hash network that `iom.nn.hash_network.build_hasher` builds, before any training.

    Args:
        embedding_size: D.
        config: Shape of the code; without hidden layers and bottleneck.
        seed: Of the projection.
        whitening: Start of the learned layer `(D, D)`; `None` is the identity.
    """
    size = check_sizes(embedding_size, config)
    if config.hidden_layers or config.bottleneck:
        raise ConfigError("hasher: hidden layers and a bottleneck are trained; use iom train-stage2")
    learned = np.eye(embedding_size, dtype=np.float32) if whitening is None else whitening
    named: list[tuple[str, dict[str, Any], dict[str, Array]]] = [("unit", {}, {})]
    if config.learned_layer:
        named += [("dense", {}, {"kernel": learned}), ("unit", {}, {})]
    named.append((KEY_KINDS[config.key_kind].step, {"keep": config.keep}, {}))
    if config.keep:
        named.append(("unit", {}, {}))
    named.append(_untrained_projection(config.keep or size, config, seed=seed))
    steps: list[dict[str, Any]] = []
    arrays: dict[str, Array] = {}
    for number, (name, settings, values) in enumerate(named):
        keys = {setting: f"{number}/{setting}" for setting in values}
        arrays |= {keys[setting]: value for setting, value in values.items()}
        before = number + 1 if number else 0
        reads = [before, 1] if name == KEY_KINDS[config.key_kind].step else [before]
        steps.append({"step": name, "reads": reads, "settings": settings, "arrays": keys})
    return steps, arrays


def _untrained_projection(
    size: int, config: "HasherConfig", *, seed: int
) -> tuple[str, dict[str, Any], dict[str, Array]]:
    """Name, settings and arrays of the last step."""
    shape = size, config.code_length, config.alphabet_size
    if config.projection == PRODUCT:
        named = {name: getattr(config, name) for name in ("code_length", "half_norm_bias", "window")}
        return PRODUCT, named, {"codebook": drawn_codebook(*shape, window=config.window, seed=seed)}
    frozen = draw_frame(config.projection, *shape, seed=seed).astype(np.float16).astype(np.float32)
    refinement = {"steps": config.refinement_steps, "gain": config.refinement_gain, "rate": RATE, "decay": DECAY}
    return PROJECTION, {"alphabet_size": config.alphabet_size, **refinement}, {"kernel": frozen}


def check_sizes(embedding_size: int, config: "HasherConfig") -> int:
    """Number of dimensions the key works on; a larger `keep`, or one that leaves no part to renew into, is refused."""
    size = config.bottleneck or embedding_size
    if config.keep > size:
        raise ConfigError(
            f"hasher.keep: expected at most the {size} dimensions of the "
            f"{'bottleneck' if config.bottleneck else 'embedding'}, received {config.keep}"
        )
    if KEY_KINDS[config.key_kind].renews and config.keep == size:
        raise ConfigError(
            f"hasher.keep: key_kind '{config.key_kind}' keeps fewer than the {size} dimensions, as a renewal "
            f"moves to others; half of them, {size // 2}, share nothing"
        )
    if config.projection == PRODUCT:
        block_size(config.keep or size, config.code_length)
    return size


def _unit(rows: Array) -> Array:
    square = np.sum(np.square(rows), axis=-1, keepdims=True)
    unit: Array = rows / np.sqrt(np.maximum(square, np.float32(FLOOR)))
    return unit


def _dense(rows: Array, *, kernel: Array, bias: Array | None = None) -> Array:
    product = rows @ kernel
    return product if bias is None else product + bias


def _prelu(rows: Array, *, slopes: Array) -> Array:
    return np.where(rows > 0, rows, rows * slopes)


def _permutation(rows: Array, order: Array, *, keep: int) -> Array:
    return np.take_along_axis(rows, order[:, : keep or None], axis=1)


def rotate(xp: Any, rows: Array, order: Array, *, keep: int) -> Array:
    """Rows turned by signed orders, as `iom.nn.layers.keyed.KeyedRotation` has it."""
    size = rows.shape[1]
    for number in range(ROTATION_ROUNDS):
        last = number + 1 == ROTATION_ROUNDS
        part = order[:, number * size : number * size + (keep if last and keep else size)]
        negated = part < 0
        taken = xp.take_along_axis(rows, xp.where(negated, -part - 1, part), axis=1)
        rows = xp.where(negated, -taken, taken)
        if not last:
            rows = hadamard(xp, rows)
    return rows


def block_sizes(size: int) -> list[int]:
    """Powers of two that sum up to `size`, the largest first."""
    return [1 << bit for bit in reversed(range(size.bit_length())) if size >> bit & 1]


def hadamard(xp: Any, rows: Array) -> Array:
    """Normalised Walsh-Hadamard transform of each block of columns, its own inverse, `(B, D)`."""
    blocks, start = [], 0
    for size in block_sizes(rows.shape[1]):
        block, half = rows[:, start : start + size], 1
        while half < size:
            pairs = xp.reshape(block, (-1, size // (2 * half), 2 * half))
            first, second = pairs[:, :, :half], pairs[:, :, half:]
            block = xp.concatenate([first + second, first - second], axis=2)
            half *= 2
        blocks.append(xp.reshape(block, (-1, size)) * (1.0 / math.sqrt(size)))
        start += size
    return xp.concatenate(blocks, axis=1)


def product_responses(
    xp: Any, rows: Array, codebook: Array, code_length: int, *, half_norm_bias: bool, window: int = 1
) -> Array:
    """Responses `(N, M, Q)` of a product frame with the codebook `(window d, Q)`, of rows `(N, M d)`.

    `<w, u_i> - |w|^2 / 2` is largest for the vector w nearest to block u_i; without a bias it is `<w, u_i>`. With a
    `window` of 2 position i adds its vector to the blocks i and i + 1, the last one to the first block, too, and
    positions choose together (`joint_responses`).
    """
    blocks = xp.reshape(rows, (-1, code_length, codebook.shape[0] // window))
    if window == 2:
        blocks = xp.concatenate([blocks, xp.concatenate([blocks[:, 1:], blocks[:, :1]], axis=1)], axis=2)
    responses = xp.matmul(blocks, codebook)
    if half_norm_bias:
        responses = responses - 0.5 * xp.sum(xp.square(codebook), axis=0)
    if window == 1:
        return responses
    first, second = codebook[: codebook.shape[0] // 2], codebook[codebook.shape[0] // 2 :]
    return joint_responses(xp, responses, -xp.matmul(xp.transpose(second), first))


def joint_responses(xp: Any, responses: Array, pairs: Array) -> Array:
    """For each position and symbol the largest sum over a whole code that has this symbol there, `(N, M, Q)`.

    A code c is worth `sum_i responses[i, c_i] + pairs[c_i, c_i+1]`, on a ring of M positions: its largest responses are
    the best code (max-product, or Viterbi from both sides). What lies more than `REACH` positions away is left out.
    """
    ahead = _max_sums(xp, responses, pairs)
    behind = _max_sums(xp, responses[:, ::-1], xp.transpose(pairs))[:, ::-1]
    return responses + ahead + behind


def _max_sums(xp: Any, responses: Array, pairs: Array) -> Array:
    """Largest sum over the positions before each one, with every symbol there, `(N, M, Q)`.

    The ring is cut into arcs that are gone through side by side, each from `REACH` positions before it.
    """
    length = responses.shape[1]
    reach, arc = joint_steps(length)
    count = length // arc
    around = xp.concatenate([responses[:, length - reach :], responses], axis=1)
    sums = 0.0 * responses[:, :count]
    found = []
    for step in range(reach + arc):
        if step >= reach:
            found.append(sums)
        here = around[:, step : step + (count - 1) * arc + 1 : arc]
        sums = xp.max(xp.expand_dims(sums + here, -1) + pairs, axis=-2)
    return xp.reshape(xp.stack(found, axis=2), (-1, length, responses.shape[2]))


def joint_steps(code_length: int) -> tuple[int, int]:
    """Positions before each arc that are gone through, and positions of an arc, a divisor of the code length."""
    arc = max(size for size in range(1, REACH + 1) if code_length % size == 0)
    return min(REACH, code_length), arc


def centred(xp: Any, kernel: Array, alphabet_size: int) -> Array:
    """The vectors of each position less their mean, which no argmax sees and no code holds."""
    vectors = xp.reshape(kernel, (kernel.shape[0], -1, alphabet_size))
    return xp.reshape(vectors - xp.mean(vectors, axis=2, keepdims=True), kernel.shape)


def read_back(xp: Any, rows: Array, vectors: Array, alphabet_size: int) -> Array:
    """Sum of the vectors that the codes of `rows` choose, `(B, K)` -> `(B, K)`; of exactly equal responses, of all."""
    width = vectors.shape[1]
    responses = xp.reshape(xp.matmul(rows, vectors), (-1, width // alphabet_size, alphabet_size))
    chosen = xp.equal(responses, xp.max(responses, axis=-1, keepdims=True))
    return xp.matmul(xp.reshape(xp.array(chosen, vectors.dtype), (-1, width)), xp.transpose(vectors))


def corrected(
    xp: Any, rows: Array, held_by: Callable[[Array], Array], *, steps: int, gain: float, rate: float, decay: float
) -> Array:
    """Rows whose plain codes are the refined codes of `rows` (`iom.nn.layers.index_of_max`).

    `held_by` reads rows back from their codes; `rate` is the length of the first correction in units of the remainder,
    and correction k is shorter by 1 + `decay` k.
    """
    result, scale = rows, None
    for step in range(steps):
        held = held_by(result)
        if scale is None:
            along = xp.maximum(xp.sum(held * rows, axis=-1, keepdims=True), FLOOR)
            across = xp.sum(held * held, axis=-1, keepdims=True) - along * along
            scale = along + gain * xp.maximum(across, 0.0) / along
        result = result + rate / (1.0 + decay * step) * (rows - held / scale)
    return result


class _Projection:
    """Responses `(N, M, Q)`, as `iom.nn.layers.index_of_max.IoMProjection`; for Q = 2 one vector and a sign suffice.

    Vectors are centred once for each kernel: that takes longer than the hash of one row.
    """

    def __init__(self) -> None:
        self._known: tuple[Array, Array] | None = None

    def __call__(self, rows: Array, *, kernel: Array, alphabet_size: int, steps: int, **refinement: float) -> Array:
        if self._known is None or self._known[0] is not kernel:
            vectors = centred(np, kernel, alphabet_size)
            self._known = kernel, np.ascontiguousarray(vectors[:, ::2]) if alphabet_size == 2 else vectors
        vectors = self._known[1]

        def held_by(values: Array) -> Array:
            if alphabet_size == 2:
                return np.sign(values @ vectors) @ vectors.T
            return read_back(np, values, vectors, alphabet_size)

        return (corrected(np, rows, held_by, steps=steps, **refinement) @ kernel).reshape(len(rows), -1, alphabet_size)


STEPS: dict[str, Callable[..., Any]] = {
    "unit": _unit,
    "dense": _dense,
    "prelu": _prelu,
    "sum": np.add,
    "permutation": _permutation,
    "rotation": functools.partial(rotate, np),
    PROJECTION: _Projection,
    PRODUCT: functools.partial(product_responses, np),
}
"""Step of a head to its function, or to a class of which each head makes one; the names are written by the export."""
