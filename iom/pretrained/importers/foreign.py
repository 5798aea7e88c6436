"""From a foreign graph to a backbone of ours that takes raw RGB pixels."""

import keras
import numpy as np

from iom.errors import ConfigError, WeightsError
from iom.nn.backbones.registry import build_backbone
from iom.pretrained.importers.assign import assign_weights
from iom.pretrained.importers.graph import ForeignGraph
from iom.pretrained.importers.identify import recognise
from iom.pretrained.importers.inputs import Statement
from iom.pretrained.importers.messages import one_line

RAW = "0..255"


def build_foreign(graph: ForeignGraph, statement: Statement) -> keras.Model:
    """Backbone with the graph's weights.

    The scaling goes into its layer `pixel_scaling`; for a network that wants BGR the input channels
    of the first convolution change places.

    Args:
        graph: The foreign network.
        statement: Its input, and what else is known of it.

    Raises:
        WeightsError: The graph is none of our architectures, or contradicts the statement.
    """
    try:
        return _build(graph, statement)
    except ConfigError as error:
        raise WeightsError(f"{graph.source}: {error}") from error
    # Arrays of shapes that no network has, from a damaged file.
    except (ValueError, TypeError, LookupError, ArithmeticError) as error:
        reason = one_line(error)
        raise WeightsError(f"{graph.source}: damaged weights: {reason}") from error


def _build(graph: ForeignGraph, statement: Statement) -> keras.Model:
    name, arguments = recognise(graph)
    _compare(graph.source, "architecture", statement.architecture or name, name)
    _compare(graph.source, "size", statement.input.size, arguments["input_size"])
    _compare(graph.source, "embedding size", statement.embedding_size or graph.embedding_size, graph.embedding_size)
    if graph.scaling is not None and statement.input.range != RAW:
        raise WeightsError(
            f"{graph.source}: the range '{statement.input.range}' is stated, but the graph itself "
            f"scales pixels (by {graph.scaling[0]:.7g}, offset {graph.scaling[1]:.7g}) and so "
            f"wants '{RAW}'"
        )
    model = build_backbone(name, **arguments)
    assign_weights(model, graph)
    scaling = model.get_layer("pixel_scaling")
    scaling.scale, scaling.offset = graph.scaling or statement.input.scaling
    if statement.input.colour_order == "BGR":
        _swap_colours(model)
    return model


def _compare(source: str, what: str, stated: object, found: object) -> None:
    if stated != found:
        raise WeightsError(f"{source}: {what}: {stated} is stated, the file holds {found}")


def _swap_colours(model: keras.Model) -> None:
    first = next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    first.kernel.assign(np.asarray(first.kernel)[:, :, ::-1])
