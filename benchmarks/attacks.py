"""Every attack on every protection, with what it needs of model, key and template disclosed.

    python -m benchmarks.attacks
    python -m benchmarks.attacks --systems grp biohash --attacks closed_form prior_regressor
    python -m benchmarks.attacks --attacks sorted_values
    python -m benchmarks.attacks --systems --hasher runs/stage2 --key-kinds
    python -m benchmarks.attacks --systems --embedder iresnet_slim.bundled \
        --hasher iom/pretrained/iresnet_slim.bundled --attacks sorted_values

Each hasher is attacked as it is, and with keys of every other kind in its keyed step: what was
learned stands before the key and is the same for all. Kinds that keep a choice of the dimensions
(`subset`, `part`) keep half.

Victims are subjects of LFW, the attacker learns from FIW, the operating threshold (FMR 1e-3, keys
stolen) is found on all pairs of 2,000 LFW images. Post-revocation acceptance (PRAR) is over 40
fresh keys. Prints a table, then one line of JSON with its rows and 95 % intervals over subjects and
keys; rates are fractions. `sorted_values` looks for the enrolled photographs among all LFW images.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.attack_setting import Setting, add_data_arguments, load_setting
from benchmarks.command_line import new_parser, run
from benchmarks.lfw_all_pairs import parse_shape
from benchmarks.tradeoff import FMR, FRESH_KEYS
from iom.keys import KEY_KINDS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from iom.attacks.base import AttackedSystem
    from iom.keys import TransformKey
    from iom.models.face_hasher import KerasFaceHasher

SYSTEMS = (
    "grp", "urp", "biohash", "mlphash", "polyprotect", "bloom", "ifo", "sign", "scalar_4bit", "simplex_refined"
)  # fmt: skip
HASHERS = ("pre_models/mobilefacenet_y1_1536x2", "pre_models/mobilefacenet_y1_512x8")
"""Of the stored embeddings."""
IMAGES = 2000
THRESHOLD_KEYS = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.attacks`."""
    parser = new_parser("python -m benchmarks.attacks", str(__doc__))
    add_data_arguments(parser)
    parser.add_argument("--systems", nargs="*", default=list(SYSTEMS), help=f"default: {' '.join(SYSTEMS)}")
    parser.add_argument("--attacks", nargs="+", help="default: all")
    parser.add_argument("--shape", type=parse_shape, default=(512, 8), help="default: 512x8")
    parser.add_argument("--keep", type=int, default=0, help="where a system has it; default: all")
    parser.add_argument(
        "--hasher",
        type=Path,
        nargs="*",
        help="folders of trained hashers, attacked as well; default: those of the stored "
        f"embeddings, {' '.join(HASHERS)}",
    )
    parser.add_argument(
        "--key-kinds",
        nargs="*",
        default=list(KEY_KINDS),
        help="kinds of key to put into each hasher besides its own; default: all",
    )
    parser.add_argument("--records", type=int, nargs="+", default=[2, 5, 10])
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    from iom.attacks import ATTACKS
    from iom.evaluation.attacks import AttackKeys, attack_rows, measuring_keys
    from iom.evaluation.report.text import attack_table

    setting = load_setting(arguments, samples=4)
    keys = AttackKeys(
        measuring_keys(arguments.seed, "old", arguments.old_keys),
        measuring_keys(arguments.seed, "fresh", FRESH_KEYS),
        measuring_keys(arguments.seed, "records", max(arguments.records) - 1),
    )
    labels = setting.pairs.subjects[:IMAGES].astype("int64")
    rows = []
    for system in _systems(arguments, setting):
        threshold = decision_threshold(
            system,
            setting.faces[:IMAGES],
            labels,
            fmr=FMR,
            keys=measuring_keys(arguments.seed, "threshold", THRESHOLD_KEYS),
        )
        for row in attack_rows(
            system,
            threshold,
            arguments.attacks or list(ATTACKS),
            setting.victims,
            keys,
            records=arguments.records,
            seed=arguments.seed,
        ):
            rows.append(row)
            print(attack_table([row]).plain().splitlines()[-1], flush=True)
    print(attack_table(rows).markdown())
    print(json.dumps({"rows": [row.model_dump(mode="json") for row in rows]}))
    return 0


def decision_threshold(
    system: "AttackedSystem",
    embeddings: "NDArray[np.float32]",
    labels: "NDArray[np.int64]",
    *,
    fmr: float,
    keys: Sequence["TransformKey"],
) -> float:
    """The largest distance whose FMR is at most `fmr`, over all pairs and keys, which are stolen.

    Of codes that is one distance for the pairs of all keys together, of other templates the mean over keys.

    Raises:
        DataError: No distance keeps to it, or there are too few pairs to see it.
    """
    import numpy as np

    from iom.codes.packing import PackedCodes
    from iom.errors import DataError
    from iom.metrics.all_pairs import AllPairs

    pairs = AllPairs(labels)
    pairs.check_resolution(fmr)
    templates = [system.comparator.prepare(system.hash(embeddings, key)) for key in keys]
    together = [templates] if isinstance(templates[0], PackedCodes) else [[each] for each in templates]
    curves = [pairs.curve(system.comparator, *each, fmr=fmr) for each in together]
    threshold = float(np.mean([curve.threshold_at_fmr(fmr) for curve in curves]))
    if not np.isfinite(threshold):
        raise DataError(f"threshold: no distance of {system.name} keeps to an FMR of {fmr:g}")
    return threshold


def _systems(arguments: argparse.Namespace, setting: Setting) -> Iterator["AttackedSystem"]:
    from iom._registry import lookup
    from iom.attacks.targets import attacked_protection
    from iom.baselines import BASELINES
    from iom.config import CodeConfig

    size = setting.faces.shape[1]
    length, alphabet = arguments.shape
    code = CodeConfig(code_length=length, alphabet_size=alphabet, keep=arguments.keep)
    for name in arguments.systems:
        protection = lookup(BASELINES, name, "baseline")(size, code, arguments.seed)
        yield attacked_protection(name, protection, size)
    folders = arguments.hasher
    if folders is None:
        folders = [] if arguments.synthetic or arguments.embedder else map(Path, HASHERS)
    for folder in folders:
        yield from _under_kinds_of_keys(folder, arguments.key_kinds)


def _under_kinds_of_keys(folder: Path, kinds: Sequence[str]) -> Iterator["AttackedSystem"]:
    """A trained hasher, and the same with keys of other kinds."""
    from iom.attacks.targets import attacked_hasher
    from iom.models.face_hasher import KerasFaceHasher

    hasher = KerasFaceHasher.load(folder)
    yield attacked_hasher(f"{folder.name}, {hasher.key_kind}", hasher)
    for kind in kinds:
        if kind != hasher.key_kind:
            yield attacked_hasher(f"{folder.name}, {kind}", with_key_kind(hasher, kind))


def with_key_kind(hasher: "KerasFaceHasher", kind: str) -> "KerasFaceHasher":
    """The same learned layer and frame behind keys of another kind.

    Args:
        hasher: With nothing but a linear layer before its key.
        kind: A key of `KEY_KINDS`; `subset` and `part` keep half of the dimensions.

    Raises:
        ConfigError: An unknown kind, or a hasher with hidden layers or a bottleneck.
    """
    from iom.config import HasherConfig
    from iom.errors import ConfigError
    from iom.models.face_hasher import KerasFaceHasher
    from iom.nn.hash_network import LEARNED_LAYER, PROJECTION, build_hasher

    names = {layer.name for layer in hasher.model.layers if layer.weights}
    if not names <= {LEARNED_LAYER, PROJECTION}:
        raise ConfigError(
            f"key kinds: expected a hasher with weights in {LEARNED_LAYER} and {PROJECTION} alone, "
            f"received {', '.join(sorted(names))}; leave --key-kinds empty"
        )
    projection = hasher.model.get_layer(PROJECTION)
    if not hasattr(projection, "initial"):
        raise ConfigError(
            f"kinds of keys: a product frame is made for its own kind, {hasher.key_kind}, not for {kind}; ask for that "
            f"one alone: --kinds {hasher.key_kind} (or leave --key-kinds empty)"
        )
    keep = hasher.key_size // 2 if kind in ("subset", "part") else 0
    config = HasherConfig(
        code_length=hasher.code_length,
        alphabet_size=hasher.alphabet_size,
        key_kind=kind,
        keep=keep,
        learned_layer=LEARNED_LAYER in names,
        whitening=0.0,
        projection=projection.initial,
        refinement_steps=projection.refinement_steps,
        refinement_gain=projection.refinement_gain,
    )
    model = build_hasher(hasher.embedding_size, config, seed=projection.seed)
    for name in names:
        if name == LEARNED_LAYER or keep == hasher.keep:
            model.get_layer(name).set_weights(hasher.model.get_layer(name).get_weights())
    return KerasFaceHasher(model, embedder_name=hasher.embedder_name, embedder_fingerprint=hasher.embedder_fingerprint)


if __name__ == "__main__":
    raise SystemExit(main())
