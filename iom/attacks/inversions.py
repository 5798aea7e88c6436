"""Inversions of protections that are not linear, by descent on the embedding under a disclosed key.

Each has `descend(codes, start, steps=)`: rows `(N, D)` whose templates approach `codes`, from `start`.
"""

import abc
import itertools
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import expit, softmax

from iom.attacks.base import Embeddings, Templates, one_hot, unit
from iom.attacks.reconstruction import SHARPNESS, Rows, descend_on_sphere
from iom.baselines import polyprotect

SHARPNESSES = (2.0, 8.0)
"""Root mean square of the responses, in turn: soft has few traps, sharp meets the template."""
MIN_PROBABILITY = 1e-3
"""Probabilities are kept so far from 0 and 1, which bounds the gradient."""
NETWORK_RATE = 0.1
DAMPING = 1e-3
"""Weight of staying near the current solution of PolyProtect, relative to the equations."""
MAX_POLYNOMIAL_STEPS = 40


class SharpenedDescent(abc.ABC):
    """Descent through responses that grow sharper, from several starts, of which the best counts for each row."""

    starts = 1

    def descend(self, codes: Templates, start: Embeddings, *, steps: int) -> Embeddings:
        """Unit vectors `(N, D)` whose templates approach `codes`; further starts are its columns, shifted."""
        wanted = self._wanted(codes)
        best, lowest = start.astype(np.float64), np.full(len(start), np.inf)
        for turn in range(self.starts):
            rows = np.roll(start, turn, axis=1).astype(np.float64)
            for sharpness in SHARPNESSES:

                def slope(at: Rows, sharpness: float = sharpness) -> Rows:
                    return self._gradient(at, wanted, sharpness)

                rows = descend_on_sphere(slope, rows, steps=steps // len(SHARPNESSES))
            differing = np.mean(self._templates(rows) != codes, axis=1)
            best = np.where((differing < lowest)[:, None], rows, best)
            lowest = np.minimum(differing, lowest)
        return best.astype(np.float32)

    @abc.abstractmethod
    def _wanted(self, codes: Templates) -> Any:
        """The form of the codes that `_gradient` takes."""

    @abc.abstractmethod
    def _templates(self, rows: Rows) -> NDArray[Any]: ...

    @abc.abstractmethod
    def _gradient(self, rows: Rows, wanted: Any, sharpness: float) -> Rows:
        """Gradient of the loss of each row, `(N, D)`."""


class BloomInversion(SharpenedDescent):
    """Bloom filters: descent on minus the log probability of the filters, with bits that are probably one.

    With p_wv the probability that word w of a block has the value v, the bit v of its filter is zero with the
    probability `prod_w (1 - p_wv)`. The bits of words are signs of `directions`, `(D, blocks, words, bits)`.
    """

    starts = 4

    def __init__(self, directions: NDArray[np.float32]) -> None:
        self._shape = directions.shape[1:]
        self._columns = directions.reshape(len(directions), -1).astype(np.float64)
        bits = self._shape[-1]
        values = np.arange(1 << bits)[:, None] >> np.arange(bits) & 1
        self._is_one = values.astype(np.float64)
        """Whether bit b of the value v is one, `(2^bits, bits)`."""

    def _wanted(self, codes: Templates) -> NDArray[np.bool_]:
        return codes.reshape(len(codes), self._shape[0], -1).astype(bool)

    def _values(self, rows: Rows) -> Rows:
        return np.asarray((rows @ self._columns).reshape(len(rows), *self._shape))

    def _templates(self, rows: Rows) -> NDArray[np.bool_]:
        words = (self._values(rows) > 0) @ (1 << np.arange(self._shape[-1]))
        filters = (words[..., None] == np.arange(len(self._is_one))).any(axis=2)
        return np.asarray(filters.reshape(len(rows), -1))

    def _gradient(self, rows: Rows, wanted: NDArray[np.bool_], sharpness: float) -> Rows:
        values = self._values(rows)
        scale = sharpened(values, sharpness)
        bits = expit(scale * values)
        # log p_wv is linear in the logarithms of the bits' probabilities: (N, blocks, words, 2^b).
        logs = np.log(np.clip(bits, 1e-12, 1)) @ self._is_one.T
        logs += np.log(np.clip(1 - bits, 1e-12, 1)) @ (1 - self._is_one).T
        words = np.clip(np.exp(logs), 0, 1 - MIN_PROBABILITY)
        absent = np.prod(1 - words, axis=2, keepdims=True)
        present = absent / np.maximum(1 - absent, MIN_PROBABILITY)
        by_word = np.where(wanted[:, :, None], -present, 1.0) * words / (1 - words)
        # Of log p_wv by the value behind bit b: 1 - sigma where v has a one, else - sigma.
        slope = by_word @ self._is_one - by_word.sum(axis=3, keepdims=True) * bits
        return np.asarray((slope * scale).reshape(len(rows), -1) @ self._columns.T)


class FirstOneInversion(SharpenedDescent):
    """IFO: descent on minus the log probability of the symbols, the places of the first one in products of bits.

    With p_j the product of the probabilities of its bits, a symbol t has the probability `p_t prod_{j < t} (1 - p_j)`,
    and a void one (q) `prod_j (1 - p_j)`. The bits are signs of `directions`, `(D, bits)`; `windows` `(P, M, q)` are
    multiplied.
    """

    starts = 2

    def __init__(self, directions: NDArray[np.float32], windows: NDArray[np.intp]) -> None:
        self._directions = directions.astype(np.float64)
        self._windows = windows
        self._sums = _sums_by_column(windows, directions.shape[1])

    def _wanted(self, codes: Templates) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether a place holds the first one, and whether it holds a zero."""
        places = np.arange(self._windows.shape[2])
        return codes[:, :, None] == places, codes[:, :, None] > places

    def _templates(self, rows: Rows) -> NDArray[np.intp]:
        ones = (rows @ self._directions > 0)[:, self._windows].all(axis=1)
        void = self._windows.shape[2]
        return np.asarray(np.where(np.any(ones, axis=2), np.argmax(ones, axis=2), void))

    def _gradient(self, rows: Rows, wanted: tuple[NDArray[np.bool_], NDArray[np.bool_]], sharpness: float) -> Rows:
        is_first, is_zero = wanted
        values = rows @ self._directions
        scale = sharpened(values, sharpness)
        bits = expit(scale * values)[:, self._windows]
        ones = np.clip(bits.prod(axis=1), MIN_PROBABILITY, 1 - MIN_PROBABILITY)
        by_one = is_zero / (1 - ones) - is_first / ones
        slope = (by_one * ones)[:, None] * (1 - bits)
        by_bit = slope.reshape(len(rows), -1) @ self._sums
        return np.asarray((by_bit * scale) @ self._directions.T)


class ProductInversion(SharpenedDescent):
    """URP-IoM: softmax cross-entropy of products of entries, through the `windows` `(P, M, q)` that the key discloses.

    A product of an even number of entries is the same for a row and its negative, under every key: which of the two is
    found is left to chance, and makes no difference to any matcher.
    """

    starts = 6

    def __init__(self, windows: NDArray[np.intp], size: int) -> None:
        self._windows = windows
        self._sums = [_sums_by_column(window, size) for window in windows]

    def _wanted(self, codes: Templates) -> Rows:
        return one_hot(codes, self._windows.shape[2]).astype(np.float64)

    def _templates(self, rows: Rows) -> NDArray[np.intp]:
        return np.asarray(np.argmax(np.prod([rows[:, window] for window in self._windows], axis=0), axis=2))

    def _gradient(self, rows: Rows, wanted: Rows, sharpness: float) -> Rows:
        factors = [rows[:, window] for window in self._windows]
        products = np.prod(factors, axis=0)
        scaled = products * sharpened(products, sharpness)
        errors = softmax(scaled, axis=2) - wanted
        slope = np.zeros_like(rows)
        for number, sums in enumerate(self._sums):
            others = np.prod([f for n, f in enumerate(factors) if n != number], axis=0)
            slope += (errors * others).reshape(len(rows), -1) @ sums
        return slope


class PerceptronInversion:
    """MLP-Hash: logistic descent through hidden `layers` of `tanh(W v / rms)` `(D, D)`, the last of signs `(M, D)`."""

    def __init__(self, layers: list[NDArray[np.float64]]) -> None:
        *self._hidden, self._last = layers

    def descend(self, codes: Templates, start: Embeddings, *, steps: int) -> Embeddings:
        """Unit vectors `(N, D)` whose bits approach `codes` `(N, M)`, from `start`."""
        signs = 2.0 * codes - 1.0
        found = descend_on_sphere(lambda rows: self._gradient(rows, signs), start, steps=steps)
        return found.astype(np.float32)

    def _gradient(self, rows: Rows, signs: Rows) -> Rows:
        """Gradient of the mean logistic loss, `(N, D)`."""
        values, kept = rows, []
        for weights in self._hidden:
            inner = values @ weights.T
            scale = np.sqrt(np.mean(inner**2, axis=1, keepdims=True))
            values = np.tanh(inner / scale)
            kept.append((inner / scale, scale, values))
        outputs = values @ self._last.T
        sharpness = SHARPNESS / np.sqrt(np.mean(outputs**2, axis=1, keepdims=True))
        wrong = -signs / (1 + np.exp(np.clip(sharpness * outputs * signs, -50, 50)))
        slope = wrong @ self._last
        for weights, (scaled, scale, value) in zip(reversed(self._hidden), reversed(kept), strict=True):
            slope = slope * (1 - value**2)
            mean = np.mean(slope * scaled, axis=1, keepdims=True)
            slope = ((slope - mean * scaled) / scale) @ weights
        return np.asarray(slope)


class PolynomialInversion:
    """PolyProtect: Levenberg's steps on `sum_j c_j v_{i + j}^{e_j} = p_i` under disclosed c and e, `(m,)`.

    The numerical solution of its authors (Krivokuca Hahn and Marcel, 2110.00434, IV-C), of nearly as many equations as
    unknowns.
    """

    def __init__(self, coefficients: NDArray[Any], exponents: NDArray[np.intp]) -> None:
        self._coefficients = coefficients.astype(np.float64)
        self._exponents = exponents.astype(np.float64)

    def descend(self, codes: Templates, start: Embeddings, *, steps: int) -> Embeddings:
        """Rows `(N, D)` that solve for templates `(N, P)`, from `start`; 40 steps at most."""
        solved = np.array(start, np.float64) / np.sqrt(start.shape[1])
        for row, template in zip(solved, codes.astype(np.float64), strict=True):
            row[:] = self._solve(template, row, min(steps, MAX_POLYNOMIAL_STEPS))
        return np.asarray(solved, np.float32)

    def _solve(self, template: NDArray[np.float64], row: NDArray[np.float64], steps: int) -> NDArray[np.float64]:
        damping = DAMPING * float(np.sum(self._coefficients**2))
        error, slopes = self._linearised(row, template)
        for _ in range(steps):
            inner = slopes @ slopes.T + damping * np.eye(len(template))
            tried = np.clip(row - slopes.T @ np.linalg.solve(inner, error), -1, 1)
            new_error, new_slopes = self._linearised(tried, template)
            if np.sum(new_error**2) < np.sum(error**2):
                row, error, slopes, damping = tried, new_error, new_slopes, damping / 3
            else:
                damping *= 4
        return row

    def _linearised(
        self, row: NDArray[np.float64], template: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Errors of the equations `(P,)` and their slopes `(P, D)`."""
        terms, count = len(self._exponents), len(template)
        step = 1 if count == 1 else -(-(len(row) - terms) // (count - 1))
        padded = np.pad(row, (0, (count - 1) * step + terms - len(row)))
        places = step * np.arange(count)[:, None] + np.arange(terms)
        windows = padded[places]
        slopes = np.zeros((count, len(padded)))
        partial = self._coefficients * self._exponents * windows ** (self._exponents - 1)
        np.put_along_axis(slopes, places, partial, axis=1)
        values = windows**self._exponents @ self._coefficients
        return values - template, slopes[:, : len(row)]


def solved_polynomial(templates: Templates, embeddings: Embeddings) -> PolynomialInversion:
    """Coefficients and exponents of PolyProtect from templates `(k, P)` of known embeddings `(k, D)`.

    Least squares for the coefficients under each of the m! orders of the exponents, of which the best fit counts.
    """
    terms, step = polyprotect.TERMS, polyprotect.TERMS - polyprotect.OVERLAP
    rows = unit(embeddings).astype(np.float64)
    sides = np.pad(rows, ((0, 0), (0, (templates.shape[1] - 1) * step + terms - rows.shape[1])))
    windows = np.lib.stride_tricks.sliding_window_view(sides, terms, axis=1)[:, ::step].reshape(-1, terms)
    wanted = templates.astype(np.float64).ravel()
    best, lowest = (np.zeros(terms), np.arange(1, terms + 1)), np.inf
    for order in itertools.permutations(range(1, terms + 1)):
        powers = windows ** np.array(order)
        coefficients = np.linalg.lstsq(powers, wanted)[0]
        error = float(np.sum((powers @ coefficients - wanted) ** 2))
        if error < lowest:
            best, lowest = (coefficients, np.array(order)), error
    return PolynomialInversion(*best)


class RotationInversion:
    """Scalar quantiser: values `(N, D)` turned back by the disclosed `rotation` `(D, D)`."""

    def __init__(self, rotation: NDArray[np.float64]) -> None:
        self._rotation = rotation

    def descend(self, codes: Templates, start: Embeddings, *, steps: int) -> Embeddings:
        """Rows `(N, D)`; nothing is searched for."""
        return np.asarray(codes @ self._rotation, np.float32)


class NetworkInversion:
    """Softmax cross-entropy descent through a frozen hashing network, under one key, which became `order`, `(W,)`."""

    def __init__(self, model: keras.Model, order: NDArray[np.int32]) -> None:
        self._model = model
        self._order = order

    def descend(self, codes: Templates, start: Embeddings, *, steps: int) -> Embeddings:
        """Rows `(N, D)`, unit length, whose responses favour `codes` `(N, M)`."""
        # Weights, so that a stock optimizer can move them; row i is asked for by i.
        candidates = keras.layers.Embedding(
            *start.shape, embeddings_initializer=lambda shape, dtype=None: keras.ops.cast(unit(start), dtype)
        )
        frozen = keras.models.clone_model(self._model)
        frozen.set_weights(self._model.get_weights())
        frozen.trainable = False
        number = keras.Input((), dtype="int32")
        order = keras.Input((len(self._order),), dtype="int32")
        responses = frozen({"embedding": candidates(number), "order": order})
        orders = np.repeat(self._order[None], len(codes), axis=0)
        spread = float(np.std(self._model.predict_on_batch({"embedding": start, "order": orders})))
        attack = keras.Model([number, order], responses * (SHARPNESS / max(spread, 1e-12)))
        attack.compile(
            optimizer=keras.optimizers.Adam(NETWORK_RATE),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,
        )
        everyone = np.arange(len(codes), dtype=np.int32)
        attack.fit(
            [everyone, orders], codes.astype(np.int32), batch_size=len(codes), epochs=steps, shuffle=False, verbose=0
        )
        return unit(np.asarray(candidates.embeddings))


def sharpened(responses: Rows, sharpness: float) -> Rows:
    """One factor for each row, so that its responses have this root mean square, `(N, 1, ...)`."""
    axes = tuple(range(1, responses.ndim))
    scale = np.sqrt(np.mean(np.square(responses), axis=axes, keepdims=True))
    return np.asarray(sharpness / np.maximum(scale, 1e-12))


def _sums_by_column(windows: NDArray[np.intp], columns: int) -> csr_array:
    """Sums the values of windows into the columns that they were taken from."""
    places = np.arange(windows.size)
    return csr_array((np.ones(windows.size), (places, windows.ravel())), shape=(windows.size, columns))
