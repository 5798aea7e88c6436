"""Script of the isolated Python of `iom.export.tfjs`: `python tfjs_convert.py SAVED_MODEL OUTPUT` makes a TF.js model.

Empty modules stand in for packages that only other conversions use. It imports nothing of this project.
"""

import sys
import types

UNUSED = ("tensorflow_decision_forests", "tensorflow_hub", "tf_keras", "jax", "jax.experimental")


def main(source: str, output: str) -> None:
    """Convert the model."""
    import keras  # noqa: F401  (looks at jax if there is one: before the stand-ins)

    for name in UNUSED:
        sys.modules[name] = types.ModuleType(name)
    sys.modules["jax.experimental"].jax2tf = None  # type: ignore[attr-defined]
    from tensorflowjs.converters import tf_saved_model_conversion_v2

    tf_saved_model_conversion_v2.convert_tf_saved_model(
        source, output, signature_def="serving_default", skip_op_check=False
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
