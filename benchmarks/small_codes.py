"""Short learned codes, compared asymmetrically, against the embedding and scalar quantisers of the same bytes.

    python -m benchmarks.small_codes
    python -m benchmarks.small_codes --embedder dlib_resnet.bundled --set cfp

All pairs of LFW (every subject, at most 20 images), of the frontal images of CFP, or of the families that the training
held out (`fiw`, kin left out), the keys stolen, for codes of 64, 32 and 16 bytes. The plain names are what `--config`
trains on Families in the Wild, by default that of stage 2; `untrained` is the frame that it starts from (product
quantisation by k-means), `float_behind_layer` the cosine of its rows without a code. Scalar quantisers are compared as
templates and, `asymmetric`, with the rotated float embedding as the probe. A configuration that trains the network
along (`fine_tune`) is measured with its own embeddings, and codes by the comparison that the configuration names.
Trained hashers lie in --output and are used again. With `--protection` the 32-byte code is also linked across keys and
attacked with its key.

Ends with one line of JSON; rates are fractions, means over the keys, intervals are 95 % over subjects and keys.
"""

import argparse
import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.command_line import add_data_option, new_parser, run
from benchmarks.lfw_all_pairs import AT_MOST, first_images
from iom.errors import ConfigError, DataError

if TYPE_CHECKING:
    from benchmarks.key_trials import Draws, KeyTrials
    from iom.baselines.scalar import ScalarQuantiser
    from iom.config import Stage2Config
    from iom.keys import TransformKey
    from iom.metrics.all_pairs import AllPairs
    from iom.models.face_hasher import FaceHasher, KerasFaceHasher
    from iom.training.hasher import Stage2Data

SHAPES = {64: (128, 16), 32: (64, 16), 16: (32, 16)}
"""Bytes of a code to its positions and symbols."""
SCALARS = {64: "scalar_4bit", 32: "scalar_2bit", 16: "scalar_1bit"}
"""Of an embedding of 128 dimensions."""
SETS = ("lfw", "cfp", "fiw")
STORED = "mobilefacenet_y1.ms1m"
LEARNED, UNTRAINED = "learned", "untrained"
FMR = 1e-3
FRESH_KEYS = 40
LINKER = "keyless_linker"
INVERSIONS = ("closed_form", "prior_regressor", "descent")
RATES = ("eer", "fnmr_1e3", "fnmr_1e4")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.small_codes`."""
    parser = new_parser("python -m benchmarks.small_codes", str(__doc__))
    parser.add_argument("--embedder", default=STORED, help="manifest name or file; default: %(default)s")
    parser.add_argument("--set", dest="test_set", choices=SETS, default="lfw", help="default: %(default)s")
    parser.add_argument("--config", default="configs/stage2/mobilefacenet_y1_64x16.yaml", help="default: %(default)s")
    parser.add_argument("--bytes", type=int, nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--keys", type=int, default=10, help="default: %(default)s")
    parser.add_argument("--images", type=int, default=AT_MOST, help="of a subject, at most")
    parser.add_argument("--replicates", type=int, default=100, help="draws of the bootstrap; 0: no intervals")
    parser.add_argument("--seed", type=int, default=1, help="of keys and draws; default: 1")
    parser.add_argument("--output", type=Path, default=Path("runs/small_codes"), help="default: %(default)s")
    parser.add_argument("--protection", action=argparse.BooleanOptionalAction, default=True, help="of 32 bytes")
    parser.add_argument("--victims", type=int, default=50, help="of the attacks; default: %(default)s")
    parser.add_argument("--centred", action="store_true", help="subtract the mean of the training embeddings first")
    add_data_option(parser)
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    from benchmarks.key_trials import Draws, float_trial
    from iom.metrics.all_pairs import AllPairs
    from iom.models.face_hasher import EMBEDDER_FILE

    if arguments.centred and _config(32, arguments).fine_tune:
        raise ConfigError("--centred: expected a configuration without fine_tune, whose embeddings have another mean")
    data = _training_data(arguments)
    mean = data.train_embeddings.mean(axis=0) * arguments.centred
    if arguments.centred:
        print(f"mean of the training embeddings: length {np.linalg.norm(mean):.2f}")
    rows, held_out_rows = _without(mean, data.train_embeddings), _without(mean, data.held_out_embeddings)
    data = dataclasses.replace(data, train_embeddings=rows, held_out_embeddings=held_out_rows)
    hashers = {size: _hashers(size, data, arguments) for size in arguments.bytes}
    if arguments.test_set == "fiw":
        embeddings, labels, pairs = data.held_out_embeddings, data.pairs.labels, data.pairs.all
    else:
        files, labels = _faces(arguments)
        embeddings, pairs = _without(mean, _embedded(files, arguments)), AllPairs(labels)
    draws = Draws(arguments.replicates, arguments.seed)
    figures: dict[str, Any] = {"embedder": arguments.embedder, "set": arguments.test_set, "keys": arguments.keys}
    trials = float_trial(pairs, embeddings, dataclasses.replace(draws, replicates=0))
    _show("float", trials)
    figures |= {f"float_{rate}": trials.mean(rate) for rate in RATES}
    for size in arguments.bytes:
        own = embeddings
        if _config(size, arguments).fine_tune:
            weights = str(_folder(size, arguments) / EMBEDDER_FILE)
            own = _embedded(data.pairs.files if arguments.test_set == "fiw" else files, arguments, weights)
        figures |= _rows(size, hashers[size], pairs, {LEARNED: own, UNTRAINED: embeddings}, arguments, draws)
    if arguments.protection and 32 in arguments.bytes:
        figures |= _protection(hashers[32][LEARNED], pairs, embeddings, labels, data, arguments)
    print(json.dumps(figures))
    return 0


def _rows(
    size: int,
    hashers: "dict[str, FaceHasher]",
    pairs: "AllPairs",
    embeddings: dict[str, NDArray[np.float32]],
    arguments: argparse.Namespace,
    draws: "Draws",
) -> dict[str, Any]:
    """Figures of all systems of so many bytes; `embeddings` are those of each hasher, by its name."""
    from benchmarks.key_trials import Draws, float_trial

    figures: dict[str, Any] = {}
    measured = {}
    for name, hasher in hashers.items():
        comparison = _config(size, arguments).hasher.comparison
        measured[name] = _trials(pairs, hasher, comparison, embeddings[name], arguments, draws)
        _show(f"{size} B {name}", measured[name])
        prefix = "" if name == LEARNED else f"{name}_"
        figures |= {f"{prefix}{rate.removesuffix('_1e4')}_{size}": measured[name].mean(rate) for rate in RATES}
    rows = hashers[LEARNED].rows(embeddings[LEARNED], _keys(arguments)[0])
    behind = float_trial(pairs, rows, Draws(replicates=0))
    _show(f"float behind the layer of {size} B", behind)
    figures |= {f"float_behind_layer_{rate.removesuffix('_1e4')}_{size}": behind.mean(rate) for rate in RATES}
    if draws.replicates:
        for rate, suffix in (("fnmr_1e4", ""), ("eer", "_eer")):
            interval = measured[LEARNED].difference(measured[UNTRAINED], rate)
            figures[f"learned_minus_untrained{suffix}_{size}"] = [interval.low, interval.high]
            interval = measured[LEARNED].interval(rate)
            figures[f"{rate.removesuffix('_1e4')}_{size}_interval"] = [interval.low, interval.high]
    for name, trials in _scalar_trials(SCALARS[size], pairs, embeddings[UNTRAINED], arguments):
        _show(f"{size} B {name}", trials)
        suffix = "_asymmetric" if name.endswith("asymmetric") else ""
        for rate in RATES:
            figures[f"scalar{suffix}_{rate.removesuffix('_1e4')}_{size}"] = trials.mean(rate)
    return figures


def _training_data(arguments: argparse.Namespace) -> "Stage2Data":
    """Families in the Wild, embedded: stored embeddings for the embedder they are of."""
    from benchmarks.stored_embeddings import embeddings_of
    from iom.data.folders import hold_out, scan_folder
    from iom.models.embedder import open_embedder
    from iom.training.calibration import ValidationPairs
    from iom.training.hasher import Stage2Data

    config = _config(32, arguments)
    train, held_out = hold_out(scan_folder(config.data), config.data)
    pairs = ValidationPairs(held_out, group_separator=config.data.group_separator, seed=config.seed)
    embedder = open_embedder(config.embedder)
    root, stored = Path(config.data.root), "" if arguments.embedder == STORED else arguments.embedder
    rows, held_out_rows = (embeddings_of(files, root, arguments.data, stored) for files in (train.files, pairs.files))
    source = (config.data, config.embedder, config.seed)
    return Stage2Data(source, embedder, train, held_out, pairs, rows, held_out_rows)


def _config(size: int, arguments: argparse.Namespace) -> "Stage2Config":
    from iom.config import Stage2Config, load_config

    length, alphabet = SHAPES[size]
    root = arguments.data / "fiw_112x112"
    changes = {
        "hasher.code_length": length,
        "hasher.alphabet_size": alphabet,
        "embedder.weights": arguments.embedder,
        "data.root": str(root),
        "data.include": str(arguments.data / "lists/fiw_clean.txt"),
        "data.same_subject": str(arguments.data / "lists/fiw_probable_duplicates.tsv"),
    }
    overrides = [f"{name}={json.dumps(value)}" for name, value in changes.items()]
    return load_config(Stage2Config, Path(arguments.config), overrides=overrides)


def _hashers(size: int, data: "Stage2Data", arguments: argparse.Namespace) -> "dict[str, FaceHasher]":
    """What a training ends with, and what it starts from."""
    from iom.training.hasher import untrained_hasher

    config = _config(size, arguments)
    return {LEARNED: _trained(config, data, _folder(size, arguments)), UNTRAINED: untrained_hasher(config, data)}


def _folder(size: int, arguments: argparse.Namespace) -> Path:
    name = f"{arguments.embedder}_{size}" + "_centred" * arguments.centred
    return Path(arguments.output / Path(arguments.config).stem / name)


def _without(mean: NDArray[np.float32], rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of unit length, less a mean, at unit length again."""
    if not mean.any():
        return rows
    less = rows - mean
    return np.asarray(less / np.linalg.norm(less, axis=1, keepdims=True), np.float32)


def _trained(config: "Stage2Config", data: "Stage2Data", folder: Path) -> "KerasFaceHasher":
    from iom.config import Stage2Config, load_config
    from iom.models.face_hasher import KerasFaceHasher
    from iom.pretrained import HASHER_FILE
    from iom.training.hasher import train_hasher

    if (folder / HASHER_FILE).is_file():
        made_with = load_config(Stage2Config, folder / "config.yaml", saved=True)
        if made_with != config:
            raise DataError(f"{folder}: trained with another configuration; remove it, or name another --output")
        return KerasFaceHasher.load(folder)
    return train_hasher(config, folder, data=data, progress=False, report=lambda line: print(line, flush=True))


def _faces(arguments: argparse.Namespace) -> tuple[list[Path], NDArray[np.int64]]:
    """Files and subjects of the test set."""
    from iom.config import FolderConfig
    from iom.data.folders import scan_folder

    root = arguments.data / f"{arguments.test_set}_112x112"
    folder = scan_folder(FolderConfig(root=str(root), min_images=1))
    rows, files = first_images(folder, arguments.images), folder.files
    if arguments.test_set == "cfp":
        rows = np.array([row for row in rows if files[row].name.startswith("frontal_")])
    return [files[row] for row in rows], folder.labels[rows]


def _embedded(files: Sequence[Path], arguments: argparse.Namespace, weights: str = "") -> NDArray[np.float32]:
    """Embeddings of files of the test set by `weights`, by default those of `--embedder`."""
    from benchmarks.stored_embeddings import embeddings_of

    if not weights and (arguments.embedder, arguments.test_set) != (STORED, "lfw"):
        weights = arguments.embedder
    return embeddings_of(files, arguments.data / f"{arguments.test_set}_112x112", arguments.data, weights)


def _trials(
    pairs: "AllPairs",
    hasher: "FaceHasher",
    comparison: str,
    embeddings: NDArray[np.float32],
    arguments: argparse.Namespace,
    draws: "Draws",
) -> "KeyTrials":
    from benchmarks.key_trials import trials

    comparator = hasher.comparator_of(comparison)
    keyed = (comparator.prepare(hasher.templates(embeddings, key, comparison)) for key in _keys(arguments))
    return trials(pairs, comparator, keyed, draws)


def _keys(arguments: argparse.Namespace) -> "list[TransformKey]":
    from iom.evaluation.scores import common_key

    return [common_key(arguments.seed, number) for number in range(arguments.keys)]


@dataclasses.dataclass(frozen=True, eq=False)
class TwoSided:
    """Unit rows of two kinds for the same images: what is stored, and the probes."""

    stored: NDArray[np.float32]
    probes: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, rows: Any) -> "TwoSided":
        return TwoSided(self.stored[rows], self.probes[rows])


class TwoSidedCosine:
    """`1 - cosine` of a stored row and a probe."""

    unit = "1 - cosine"

    def prepare(self, templates: TwoSided) -> TwoSided:
        """Both sides at unit length."""
        sides = (np.asarray(side, np.float64) for side in (templates.stored, templates.probes))
        return TwoSided(*((side / np.linalg.norm(side, axis=1, keepdims=True)).astype(np.float32) for side in sides))

    def paired(self, a: TwoSided, b: TwoSided) -> NDArray[np.float32]:
        """Row i against row i."""
        return np.asarray(1 - np.einsum("nd,nd->n", a.stored, b.probes))

    def all_pairs(self, a: TwoSided, b: TwoSided) -> NDArray[np.float32]:
        """Every stored row against every probe."""
        return np.asarray(1 - a.stored @ b.probes.T)

    def max_distance(self, prepared: TwoSided) -> None:
        """Distances are real."""


def _scalar_trials(
    name: str, pairs: "AllPairs", embeddings: NDArray[np.float32], arguments: argparse.Namespace
) -> "Iterator[tuple[str, KeyTrials]]":
    """The scalar quantiser as a template system, and with float probes."""
    from benchmarks.key_trials import Draws, trials
    from iom.baselines import BASELINES
    from iom.config import CodeConfig

    quantiser: ScalarQuantiser = BASELINES[name](embeddings.shape[1], CodeConfig(), arguments.seed)
    keys, draws = _keys(arguments), Draws(replicates=0)
    both = quantiser.comparator
    yield name, trials(pairs, both, (both.prepare(quantiser.hash(embeddings, key)) for key in keys), draws)
    asymmetric = TwoSidedCosine()
    sides = (TwoSided(quantiser.hash(embeddings, key), embeddings @ quantiser.rotation(key).T) for key in keys)
    yield f"{name}, asymmetric", trials(pairs, asymmetric, map(asymmetric.prepare, sides), draws)


def _protection(
    hasher: "FaceHasher",
    pairs: "AllPairs",
    embeddings: NDArray[np.float32],
    labels: NDArray[np.int64],
    data: "Stage2Data",
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Linkability across keys, and attacks with the key, of a code compared asymmetrically."""
    from benchmarks.attack_setting import draw_victims
    from benchmarks.key_linkability import BINS, merge_bins
    from iom.attacks import ATTACKS
    from iom.attacks.targets import attacked_hasher
    from iom.evaluation.attacks import AttackKeys, attack_rows, make_leak, measuring_keys
    from iom.metrics.protection import linkability_floor, system_linkability

    comparator = hasher.comparator_of("asymmetric")
    keyed = [comparator.prepare(hasher.templates(embeddings, key, "asymmetric")) for key in _keys(arguments)[:3]]
    counts = np.sum([pairs.count_across_keys(comparator, *two) for two in itertools.pairwise(keyed)], axis=0)
    counts = merge_bins(*counts, BINS)
    figures: dict[str, Any] = {"d_sys": system_linkability(*counts), "d_sys_floor": linkability_floor(*counts)}
    threshold = float(np.mean([pairs.curve(comparator, each).threshold_at_fmr(FMR) for each in keyed]))
    victims = draw_victims(
        embeddings, labels, population=data.train_embeddings, population_labels=data.train.labels,
        subjects=arguments.victims, samples=4, seed=arguments.seed,
    )  # fmt: skip
    system = attacked_hasher("product", hasher)
    fresh = measuring_keys(arguments.seed, "fresh", FRESH_KEYS)
    (old,) = measuring_keys(arguments.seed, "old", 1)
    (linked,) = attack_rows(
        system, 0.0, [LINKER], victims, AttackKeys((old,), fresh), seed=arguments.seed, replicates=0
    )
    figures["linker_auc"] = linked.linking_auc
    leak = make_leak(system, victims, [old], seed=arguments.seed)
    for name in INVERSIONS:
        attack = ATTACKS[name]
        found = attack.reconstruct(leak.only(attack.knowledge))
        figures[f"{name}_cosine"] = float(np.mean(np.einsum("nd,nd->n", found, victims.samples[:, 0])))
        for suffix, sample in (("prar", 0), ("prar_other", -1)):
            shares = [_accepted(hasher, victims.samples[:, sample], found, key) <= threshold for key in fresh]
            figures[f"{name}_{suffix}"] = float(np.mean(shares))
    return figures


def _accepted(
    hasher: "FaceHasher", enrolled: NDArray[np.float32], found: NDArray[np.float32], key: "TransformKey"
) -> NDArray[np.int32]:
    """Asymmetric distances of enrolled codes to the keyed rows of reconstructions, row by row."""
    comparator = hasher.comparator_of("asymmetric")
    sides = (comparator.prepare(hasher.templates(rows, key, "asymmetric")) for rows in (enrolled, found))
    return comparator.paired(*sides)


def _show(name: str, trials: "KeyTrials") -> None:
    cells = "  ".join(f"{rate} {100 * trials.mean(rate):.3f} ± {100 * trials.std(rate):.3f}" for rate in RATES)
    print(f"{name:30s} {cells} %", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
