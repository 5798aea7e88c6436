"""Verification benchmarks by the name of their source, each with its reader.

A reader is one function `(list, folder of images) -> PairBenchmark`; `SOURCES` names it and the fields of `benchmark`
that it needs. `iom.evaluation.evaluate` keeps the sources of identification.
"""

import dataclasses
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from iom._files import data_path
from iom._registry import lookup
from iom.errors import ConfigError

if TYPE_CHECKING:
    from iom.config import BenchmarkConfig


class BenchmarkSource(NamedTuple):
    """A reader of pairs, `module:function`, and the fields of `benchmark` that it takes.

    `paths` are needed, in its order; `options` go by keyword; a `seeded` reader takes the seed of the run.
    """

    reader: str
    paths: tuple[str, ...] = ("path", "root")
    options: tuple[str, ...] = ()
    seeded: bool = False


SOURCES = {
    "pairs": BenchmarkSource("iom.data.benchmarks.pair_lists:read_pair_list"),
    "two_lines": BenchmarkSource("iom.data.benchmarks.pair_lists:read_two_line_pairs"),
    "cfp": BenchmarkSource("iom.data.benchmarks.pair_lists:read_cfp"),
    "youtube_faces": BenchmarkSource("iom.data.benchmarks.pair_lists:read_youtube_faces"),
    "ijb": BenchmarkSource("iom.data.benchmarks.identification:read_ijb_pairs", options=("align_into",)),
    "bin": BenchmarkSource("iom.data.formats.pair_files:read_bin", ("path",)),
    "carray": BenchmarkSource("iom.data.formats.pair_files:read_carray", ("path",)),
    "folder": BenchmarkSource("iom.data.benchmarks.folders:folder_pairs", ("root",), ("path",), seeded=True),
    "synthetic": BenchmarkSource(
        "iom.data.benchmarks.folders:synthetic_pairs", (), ("subjects", "images"), seeded=True
    ),
}
"""Readers of verification pairs, by the name that a configuration gives."""


def load_benchmark(config: "BenchmarkConfig", *, seed: int, sources: Mapping[str, BenchmarkSource] = SOURCES) -> Any:
    """The benchmark that a configuration names: a `PairBenchmark`, where `sources` are those of pairs.

    Raises:
        ConfigError: Unknown source, or a path that the source needs is not set.
        DataError: The source is missing, damaged or inconsistent.
    """
    source = lookup(sources, config.source, "benchmark source")
    missing = [f"benchmark.{field}" for field in source.paths if not getattr(config, field)]
    if missing:
        raise ConfigError(f"benchmark: source '{config.source}' needs {' and '.join(missing)}")
    module, _, function = source.reader.partition(":")
    reader = getattr(importlib.import_module(module), function)
    settings = {field: getattr(config, field) for field in source.options}
    if source.seeded:
        settings["seed"] = seed
    benchmark = reader(*(data_path(getattr(config, field)) for field in source.paths), **settings)
    return dataclasses.replace(benchmark, name=config.name) if config.name else benchmark
