"""Every argument of every constructor stands in `get_config`, and survives a round trip."""

import importlib
import inspect
import pkgutil

import keras
import pytest

import iom.nn.layers

VALUES = {
    "keep": 3, "kind": "subset", "code_length": 6, "alphabet_size": 4, "classes": 7, "seed": 11,
    "initial": "gaussian", "refinement_steps": 2, "refinement_gain": 1.5, "trainable": False,
    "sub_centers": 2, "with_norm": True, "share": 0.5, "slots": 2, "half_norm_bias": False, "window": 2,
}  # fmt: skip
KINDS = (keras.layers.Layer, keras.constraints.Constraint)


def classes():
    names = [module.name for module in pkgutil.iter_modules(iom.nn.layers.__path__, "iom.nn.layers.")]
    for name in ["iom.nn.layers", *names]:
        for member in vars(importlib.import_module(name)).values():
            if inspect.isclass(member) and member.__module__ == name and issubclass(member, KINDS):
                yield member


@pytest.mark.parametrize("kind", list(classes()), ids=lambda kind: kind.__name__)
def test_every_argument_is_kept(kind):
    ours = [vars(each) for each in kind.__mro__ if each.__module__.startswith("iom.")]
    make = next((each["__init__"] for each in ours if "__init__" in each), lambda self: None)
    names = [
        name
        for name, parameter in inspect.signature(make).parameters.items()
        if name != "self" and parameter.kind is not parameter.VAR_KEYWORD
    ]
    assert set(names) <= set(VALUES), "give the new argument a value above"
    made = kind(**{name: VALUES[name] for name in names})
    config = made.get_config()
    assert {name: config.get(name) for name in names} == {name: VALUES[name] for name in names}
    again = kind.from_config(config) if hasattr(kind, "from_config") else kind(**config)
    assert again.get_config() == config
    registered = keras.saving.get_registered_name(kind)
    assert registered.startswith("iom>"), f"{kind.__name__} is not registered"
