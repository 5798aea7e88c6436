import keras
import numpy as np
import tensorflow as tf

from iom.nn.losses.margin import ArcFaceLoss, SampledLoss, sharded_cross_entropy


def test_the_place_of_the_true_class_rides_in_the_last_column():
    cosines = np.random.default_rng(0).uniform(-1, 1, (5, 7)).astype(np.float32)
    places = np.array([0, 6, 3, 3, 1])
    output = np.concatenate([cosines, places[:, None].astype(np.float32)], axis=1)
    ignored = np.full(5, 2**24 + 1)
    np.testing.assert_allclose(SampledLoss(ArcFaceLoss())(ignored, output), ArcFaceLoss()(places, cosines), rtol=1e-6)


def test_it_is_saved_with_the_loss_inside():
    loss = SampledLoss(ArcFaceLoss(margin=0.3, scale=20.0))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert again.loss.margin == 0.3
    assert again.get_config() == loss.get_config()


def test_classes_on_several_devices_give_the_loss_and_gradients_of_one():
    stream = np.random.default_rng(1)
    rows = stream.standard_normal((6, 16)).astype(np.float32)
    embeddings = tf.constant(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    centres = tf.constant(stream.standard_normal((11, 16)).astype(np.float32))
    labels = np.array([0, 3, 4, 10, 7, 3])

    def margin(cosines, first):
        """ArcFace on the columns of one shard."""
        chosen = tf.one_hot(labels - first, cosines.shape[1])
        moved = tf.cos(tf.acos(tf.clip_by_value(cosines, -0.999999, 0.999999)) + 0.5)
        return 64.0 * (chosen * moved + (1 - chosen) * cosines)

    with tf.GradientTape() as tape:
        tape.watch([embeddings, centres])
        parts = (centres[:4], centres[4:9], centres[9:])
        shards = [embeddings @ tf.transpose(tf.math.l2_normalize(part, axis=1)) for part in parts]
        logits = [margin(shard, first) for shard, first in zip(shards, (0, 4, 9), strict=True)]
        loss = tf.reduce_mean(sharded_cross_entropy(labels, logits))
    ours = tape.gradient(loss, [embeddings, centres])
    with tf.GradientTape() as tape:
        tape.watch([embeddings, centres])
        cosines = embeddings @ tf.transpose(tf.math.l2_normalize(centres, axis=1))
        whole = ArcFaceLoss()(labels, cosines)
    theirs = tape.gradient(whole, [embeddings, centres])
    np.testing.assert_allclose(loss, whole, rtol=1e-5)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
