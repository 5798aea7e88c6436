"""How far a position is from being decided for one symbol."""

from keras import ops

from iom.nn.losses.code.balance import relative_entropy


def one_max_quantization(soft):
    """Mean of 1 - max_j p_j: zero where every position is decided.

    Args:
        soft: Softmax of responses, `(B, M, Q)`.
    """
    return ops.mean(1.0 - ops.max(soft, axis=-1))


def entropy_quantization(soft):
    """Mean entropy of a position, in units of log Q: zero where every position is decided.

    Args:
        soft: Softmax of responses, `(B, M, Q)`.
    """
    return ops.mean(relative_entropy(soft))


def rounding_quantization(soft):
    """Mean of (round(z) - z)^2 of the soft index z, as the ancestor has it; for comparison.

    Symbols are names, and z averages over them: split evenly between symbols 2 and 4 a position
    has z = 3 and no loss, though it is decided for neither.

    Args:
        soft: Softmax of responses, `(B, M, Q)`.
    """
    index = ops.sum(soft * ops.arange(soft.shape[-1], dtype=soft.dtype), axis=-1)
    return ops.mean(ops.square(ops.stop_gradient(ops.round(index)) - index))


QUANTIZATIONS = {"one_max": one_max_quantization, "entropy": entropy_quantization, "rounding": rounding_quantization}
