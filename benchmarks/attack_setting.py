"""What attacks are measured on: faces or random vectors, victims, and the attacker's people."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.command_line import add_data_option
from iom.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from iom.evaluation.attacks import Victims
    from iom.metrics.all_pairs import AllPairs


class Setting(NamedTuple):
    """Everything a configuration is measured on."""

    pairs: "AllPairs"
    faces: "NDArray[np.float32]"
    victims: "Victims"
    old_keys: int
    seed: int


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `load_setting`."""
    add_data_option(parser)
    parser.add_argument("--embedder", default="", help="manifest name or file; default: the stored embeddings")
    parser.add_argument("--victims", type=int, default=50, help="default: %(default)s")
    parser.add_argument("--old-keys", type=int, default=2, help="default: %(default)s")
    parser.add_argument("--synthetic", action="store_true", help="random vectors in place of faces; no data")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="few configurations, fewer images")


def load_setting(arguments: argparse.Namespace, *, samples: int = 2) -> Setting:
    """Faces, victims with so many samples each, and the attacker's people.

    Raises:
        DataError: The embeddings are not there.
    """
    return (_synthetic if arguments.synthetic else _faces)(arguments, samples)


def _faces(arguments: argparse.Namespace, samples: int) -> Setting:
    import numpy as np

    from iom.metrics.all_pairs import AllPairs

    lists = arguments.data / "lists"
    faces, labels = _embeddings(arguments, "lfw_112x112")
    people, names = _embeddings(arguments, "fiw_112x112", lists / "fiw_clean.txt")
    counts = np.zeros(labels.max() + 1, int)
    kept = []
    for row, label in enumerate(labels):
        counts[label] += 1
        if counts[label] <= (4 if arguments.quick else 20):
            kept.append(row)
    faces, labels = faces[kept], labels[kept]
    victims = draw_victims(
        faces, labels, population=people, population_labels=names,
        subjects=arguments.victims, samples=samples, seed=arguments.seed,
    )  # fmt: skip
    return Setting(AllPairs(labels), faces, victims, arguments.old_keys, arguments.seed)


def draw_victims(
    embeddings: "NDArray[np.float32]",
    labels: "NDArray[np.int64]",
    *,
    population: "NDArray[np.float32]",
    population_labels: "NDArray[np.int64]",
    subjects: int,
    samples: int,
    seed: int,
) -> "Victims":
    """Subjects with enough samples among test embeddings `(N, D)`; photographs of all but the enrolled are public.

    Raises:
        DataError: Fewer than two subjects have as many samples.
    """
    import numpy as np

    from iom._random import numpy_stream
    from iom.evaluation.attacks import Victims

    able = np.flatnonzero(np.bincount(labels) >= samples)
    if len(able) < 2:
        raise DataError(f"victims: {len(able)} subjects have {samples} samples, expected two")
    stream = numpy_stream(seed, "attacks/victims")
    drawn = stream.permutation(able)[:subjects]
    rows = [stream.permutation(np.flatnonzero(labels == subject)) for subject in drawn]
    chosen = np.stack([embeddings[row[:samples]] for row in rows])
    others = np.delete(embeddings, [row[0] for row in rows], axis=0)
    return Victims(chosen, population, population_labels, others)


def _embeddings(
    arguments: argparse.Namespace, name: str, only: Path | None = None
) -> tuple["NDArray[np.float32]", "NDArray[np.int64]"]:
    """Embeddings of a folder of subjects and their labels, subjects side by side.

    Raises:
        DataError: No such folder, or no stored embeddings of it.
    """
    import numpy as np

    from benchmarks.stored_embeddings import embeddings_of

    data = arguments.data
    if not (data / name).is_dir():
        raise DataError(f"no embeddings: no folder {data / name}; see docs/reproduce.md, or try --synthetic")
    places = sorted(path.relative_to(data / name).as_posix() for path in (data / name).glob("*/*.jpg"))
    wanted = set(only.read_text(encoding="utf-8").split()) if only else set(places)
    images = [data / name / place for place in places if place in wanted]
    rows = embeddings_of(images, data / name, data, arguments.embedder)
    return rows, np.unique([image.parent.name for image in images], return_inverse=True)[1]


def _synthetic(arguments: argparse.Namespace, samples: int) -> Setting:
    """Random subjects in 64 dimensions: shows that it runs, says nothing about faces."""
    import numpy as np

    from iom._random import numpy_stream
    from iom.attacks.base import unit
    from iom.metrics.all_pairs import AllPairs

    stream = numpy_stream(arguments.seed, "benchmarks/tradeoff")
    labels = np.repeat(np.arange(300), 4)
    centres = stream.normal(size=(600, 64))
    rows = unit(np.repeat(centres, 4, axis=0) + 0.7 * stream.normal(size=(2400, 64)))
    victims = draw_victims(
        rows[:1200], labels, population=rows[1200:], population_labels=labels,
        subjects=arguments.victims, samples=samples, seed=arguments.seed,
    )  # fmt: skip
    return Setting(AllPairs(labels), rows[:1200], victims, arguments.old_keys, arguments.seed)
