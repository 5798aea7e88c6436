"""Cosines to a random part of the class centres: margin softmax over millions of subjects."""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from iom.nn.layers import Float32Layer, lengths

INITIAL_SPREAD = 0.01
"""Standard deviation of the first centres; their length only sets how fast they turn."""
LARGEST_EXACT = 2**24
"""Places are handed to the loss as float32."""
ROWS_AT_ONCE = 65_536
SLOT = "slot_"
"""Start of the names of the optimizer's variables that rest in the layer."""


@keras.saving.register_keras_serializable(package="iom")
class SampledCosineLogits(Float32Layer):
    """Cosines to the classes of the batch and to others drawn anew in each training step.

    Partial FC (An et al., CVPR 2022, sec. 3.2): all classes of the batch, and as many others as make up `share` of all.
    The drawn centres are copied into the small variable `active`, which is what the optimizer trains: gradients,
    clipping, weight decay and slots have its size, in any precision. Each step first writes the rows of the step before
    back, with their slots, so that the momentum of a class waits for it. The draw is a function of the seed and of a
    counter that is saved with the weights: a resumed training draws what the uninterrupted one would have.

    The output is for `SampledLoss`, which takes any margin loss. Train like this:

        labels = keras.Input((), dtype="int32")
        head = SampledCosineLogits(1_000_000, share=0.1)
        model = keras.Model([images, labels], head([embedding, labels]))
        model.compile("sgd", SampledLoss(ArcFaceLoss()), jit_compile=False)
        head.attach(model)
        model.fit(...)  # inputs (images, labels), truth labels

    Args:
        classes: Number of subjects in training.
        share: Share of the classes each step compares with; 1 is the full softmax.
        slots: Variables the optimizer keeps for each weight: 0 plain SGD, 1 with momentum, 2 Adam.
        seed: Of the first centres and of the draws.
        with_norm: Add the norm of the embedding as a column behind the cosines.
    """

    def __init__(self, classes, share=0.1, slots=1, seed=0, with_norm=False, **kwargs):
        super().__init__(**kwargs)
        if not 0 < share <= 1:
            raise ValueError(f"share: expected 0 < share <= 1, received {share}")
        self.classes, self.share, self.slots, self.seed = classes, share, slots, seed
        self.with_norm = with_norm
        self.sampled = sampled_classes(classes, share)
        if self.sampled >= LARGEST_EXACT:
            raise ValueError(
                f"share: expected less than {LARGEST_EXACT:,} classes in one step, received "
                f"{self.sampled:,}; lower share"
            )
        self._draws = keras.random.SeedGenerator(seed)
        self._attached = None

    def build(self, input_shape):
        """Create the centres `(classes, D)`, the active rows `(S, D)` and their slots."""
        size = input_shape[0][-1]

        def resting(name, shape, dtype="float32"):
            return self.add_weight(name=name, shape=shape, dtype=dtype, initializer="zeros", trainable=False)

        self.class_rows = resting("class_rows", (self.classes, size))
        self.stores = [resting(f"{SLOT}{number}", (self.classes, size)) for number in range(self.slots)]
        self.index = resting("index", (self.sampled,), "int32")
        self.drawn = resting("drawn", (), "int32")
        self.active = self.add_weight(name="active", shape=(self.sampled, size), initializer="zeros")
        generator = np.random.default_rng([self.seed, self.classes])
        for first in range(0, self.classes, ROWS_AT_ONCE):
            rows = np.arange(first, min(first + ROWS_AT_ONCE, self.classes), dtype=np.int32)
            values = generator.standard_normal((len(rows), size), dtype=np.float32)
            put_rows(self.class_rows, rows, values * np.float32(INITIAL_SPREAD))
        self.index.assign(np.arange(self.sampled, dtype=np.int32))
        self.active.assign(take_rows(self.class_rows, self.index))

    def attach(self, model):
        """Find the slots of a compiled model's optimizer that belong to the active rows of this layer.

        An optimizer with another number of slots than `slots`, or one that averages gradients over steps, whose classes
        differ, is a `ValueError`.
        """
        optimizer = model.optimizer
        if not optimizer.built:
            optimizer.build(model.trainable_variables)
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        if inner.gradient_accumulation_steps:
            raise ValueError(
                "gradient_accumulation_steps: expected none with sampled classes, whose rows "
                f"change with each step, received {inner.gradient_accumulation_steps}"
            )
        start = self.active.path.replace("/", "_") + "_"
        slots = [variable for variable in inner.variables if variable.path.rsplit("/", 1)[-1].startswith(start)]
        if len(slots) != self.slots:
            raise ValueError(
                f"{self.name}: expected an optimizer with slots={self.slots} variables for each "
                f"weight, received {inner.name} with {len(slots)}; build the layer with "
                f"slots={len(slots)}"
            )
        self._attached = lambda: slots  # the layer must not own the optimizer's variables

    def call(self, inputs, training=False):
        """`[(B, D), (B,)]` -> `(B, S + 1)`: cosines, and the place of the true class among them.

        With the norm it is the last but one of then `S + 2` columns. Outside training nothing is drawn; a class that is
        not active gives NaN, not a wrong loss.
        """
        embedding, labels = inputs
        labels = ops.cast(ops.reshape(labels, (-1,)), "int32")
        if training:
            self._draw(labels)
        place = ops.searchsorted(self.index, labels)
        place = ops.minimum(ops.cast(place, "int32"), self.sampled - 1)
        found = ops.equal(ops.take(self.index, place), labels)
        norms, active_norms = lengths(embedding), lengths(self.active)
        cosines = ops.matmul(embedding / norms, ops.transpose(self.active / active_norms))
        place = ops.where(found, ops.cast(place, "float32"), float("nan"))
        cosines = ops.where(ops.expand_dims(found, 1), cosines, float("nan"))
        columns = [cosines, norms] if self.with_norm else [cosines]
        return ops.concatenate([*columns, ops.expand_dims(place, 1)], axis=1)

    def centres(self):
        """All class centres as they are now, `(classes, D)`."""
        rows = np.array(ops.convert_to_numpy(self.class_rows))
        rows[ops.convert_to_numpy(self.index)] = ops.convert_to_numpy(self.active)
        return rows

    def _draw(self, labels):
        """Write the active rows back, and take up those of this step."""
        if self._attached is None:
            raise ValueError(
                f"{self.name}: expected attach(model) between compile and fit: without it the "
                "momentum of one class would go over to another"
            )
        if labels.shape[0] is not None and labels.shape[0] > self.sampled:
            raise ValueError(
                f"share: expected room for the {labels.shape[0]} subjects of a batch, received "
                f"{self.share} of {self.classes:,} classes, {self.sampled}; raise it"
            )
        pairs = [(self.class_rows, self.active), *zip(self.stores, self._attached(), strict=True)]
        for store, active in pairs:
            put_rows(store, self.index, ops.convert_to_tensor(active))
        self.index.assign(self._sample(labels))
        for store, active in pairs:
            active.assign(take_rows(store, self.index))

    def _sample(self, labels):
        """`(S,)` distinct classes in rising order, those of `labels` among them."""
        state = self._draws.state
        pair = (self.seed, self.drawn)
        state.assign(ops.stack([ops.cast(number, state.dtype) for number in pair]))
        self.drawn.assign_add(1)
        chance = keras.random.uniform((self.classes,), seed=self._draws)
        positive = ops.expand_dims(labels, 1)
        chance = ops.scatter_update(chance, positive, 2.0 * ops.ones_like(labels, dtype="float32"))
        _, index = ops.top_k(chance, self.sampled, sorted=False)
        return ops.sort(ops.cast(index, "int32"))

    def compute_output_shape(self, input_shape):
        return (input_shape[0][0], self.sampled + 1 + int(self.with_norm))


def sampled_classes(classes, share):
    """How many classes a step compares with."""
    return min(classes, max(1, round(share * classes)))


def take_rows(variable, index):
    """Rows of a Keras variable `(N, D)` at `(S,)`; `keras.ops` copies the whole variable, here and in `put_rows`."""
    return tf.gather(variable.value, index)


def put_rows(variable, index, rows):
    """Overwrite the rows of a Keras variable `(N, D)` at `(S,)`, which must be distinct."""
    variable.value.scatter_update(tf.IndexedSlices(rows, index))
