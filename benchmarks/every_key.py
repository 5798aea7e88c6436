"""All pairs of LFW under every key: float embedding, GRP, frames and learned codes, keys stolen.

    python -m benchmarks.every_key
    python -m benchmarks.every_key --hasher runs/1536x2 pre_models/mobilefacenet_y1_512x8

Every subject, at most 20 images of each: 27,726 mated and 65.5 million non-mated pairs. Figures are
means over the keys, intervals are 95 % over subjects and keys. The first hasher named is the one
called `learned`; of the data-agnostic systems with its number of bits every shape over 2, 4 and 8
symbols is tried, and `frame_*` and `frame_refined_*` are the best of them, figure by figure.
Ends with one line of JSON; rates are fractions.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.command_line import new_parser, run
from benchmarks.lfw_all_pairs import Faces, add_arguments, learned_system, load_faces

if TYPE_CHECKING:
    from benchmarks.key_trials import Draws, KeyTrials
    from iom.models.face_hasher import KerasFaceHasher

HASHERS = ("pre_models/mobilefacenet_y1_1536x2", "pre_models/mobilefacenet_y1_512x8")
ALPHABETS = (8, 4, 2)
FRAMES = ("orthonormal", "simplex", "cross_polytope")
REFINED = ("simplex_refined",)
RATES = ("eer", "fnmr_1e3", "fnmr_1e4", "fnmr_1e5")
Rows = dict[str, "KeyTrials"]


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.every_key`."""
    parser = new_parser("python -m benchmarks.every_key", str(__doc__))
    add_arguments(parser)
    parser.add_argument("--hasher", nargs="+", default=list(HASHERS), help="trained hashers, the first is `learned`")
    parser.add_argument("--fixed-key", default="", help="a hasher trained with key: identity")
    parser.add_argument("--frames", nargs="*", default=list(FRAMES), help="frames to try")
    parser.add_argument("--refined", nargs="*", default=list(REFINED), help="refined ones to try")
    parser.add_argument("--replicates", type=int, default=100, help="draws of the bootstrap")
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    from iom.models.face_hasher import KerasFaceHasher

    hashers = [KerasFaceHasher.load(Path(folder)) for folder in arguments.hasher]
    fixed_key = KerasFaceHasher.load(Path(arguments.fixed_key)) if arguments.fixed_key else None
    faces = load_faces(arguments)
    for hasher in [*hashers, *([fixed_key] if fixed_key else [])]:
        hasher.check_embedder(faces.embedder)
    print(json.dumps(measure(faces, hashers, arguments, fixed_key=fixed_key)))
    return 0


def measure(
    faces: Faces,
    hashers: "list[KerasFaceHasher]",
    arguments: argparse.Namespace,
    *,
    fixed_key: "KerasFaceHasher | None" = None,
) -> dict[str, float | int | str | None]:
    """All figures, and a line for each system as soon as it is measured."""
    from benchmarks.key_trials import Draws, float_trial

    draws = Draws(arguments.replicates, arguments.seed)
    print(f"{'':32s}" + "".join(f"{name:>18s}" for name in RATES) + "   % (± over keys)")
    unprotected = float_trial(faces.pairs, faces.embeddings, draws)
    _show("float", unprotected)
    figures: dict[str, float | int | str | None] = {
        **_rates("float", unprotected),
        "mated_pairs": faces.pairs.mated_count,
        "non_mated_pairs": faces.pairs.non_mated_count,
        "keys": arguments.keys,
    }
    learned = _measure_learned(faces, hashers, arguments, draws, figures)
    figures |= _paired("learned", "float", learned, unprotected)
    if fixed_key:
        figures |= _identity("fixed_key", faces, fixed_key, arguments, draws)
    _measure_agnostic(faces, hashers[0], learned, arguments, draws, figures)
    return figures


def _measure_learned(
    faces: Faces,
    hashers: "list[KerasFaceHasher]",
    arguments: argparse.Namespace,
    draws: "Draws",
    figures: dict[str, float | int | str | None],
) -> "KeyTrials":
    """The learned hashers; returns the first one's trials."""
    import numpy as np

    from benchmarks.key_linkability import key_linkability
    from benchmarks.key_trials import code_trials, codes_under_keys
    from iom.codes.packing import pack, unpack
    from iom.metrics.protection import nominal_bits, symbol_entropy

    first = None
    for hasher in hashers:
        system = learned_system(hasher)
        codes = codes_under_keys(system, faces.embeddings, keys=arguments.keys, seed=arguments.seed)
        trials = code_trials(faces.pairs, codes, draws)
        shape = f"{hasher.code_length}x{hasher.alphabet_size}"
        _show(f"learned {shape}", trials)
        ratios = np.array([symbol_entropy(unpack(each), hasher.alphabet_size) for each in codes]) / np.log2(
            hasher.alphabet_size
        )
        identity = hasher.hash_in_order(faces.embeddings, hasher.identity_order)
        unkeyed = code_trials(faces.pairs, [pack(identity, hasher.alphabet_size)], draws)
        own: dict[str, float | int | str | None] = {
            **_rates("learned", trials),
            **_bits("learned", trials),
            **_paired("identity_key", "learned", unkeyed, trials),
            "identity_key_eer": unkeyed.mean("eer"),
            "identity_key_fnmr_1e4": unkeyed.mean("fnmr_1e4"),
            "entropy_ratio": float(ratios.min()),
            "entropy_ratio_mean": float(ratios.mean()),
            "learned_bits": nominal_bits(hasher.code_length, hasher.alphabet_size),
        }
        if len(codes) > 1:
            own |= key_linkability(faces.pairs, codes)._asdict()
        if first is None:
            first = trials
            figures |= {"learned_shape": shape, **own}
        else:
            figures |= {f"{name}_{shape}": value for name, value in own.items()}
    assert first is not None  # noqa: S101 - the parser asks for one hasher at least
    return first


def _measure_agnostic(
    faces: Faces,
    hasher: "KerasFaceHasher",
    learned: "KeyTrials",
    arguments: argparse.Namespace,
    draws: "Draws",
    figures: dict[str, float | int | str | None],
) -> None:
    """GRP, frames and refined frames in all shapes of the hasher's bits."""
    groups = {
        "grp": _in_all_shapes(faces, hasher, ("grp",), arguments, draws),
        "frame": _in_all_shapes(faces, hasher, arguments.frames, arguments, draws),
        "frame_refined": _in_all_shapes(faces, hasher, arguments.refined, arguments, draws),
    }
    for group, rows in groups.items():
        if not rows:
            continue
        for rate in RATES:
            best = min(rows, key=lambda name: rows[name].mean(rate))
            figures[f"{group}_{rate}"] = rows[best].mean(rate)
            figures[f"{group}_{rate}_of"] = best
            if draws.replicates:
                low, high = learned.difference(rows[best], rate)
                figures[f"learned_minus_{group}_{rate}_low"] = low
                figures[f"learned_minus_{group}_{rate}_high"] = high
        for name, trials in rows.items():
            column = name.replace(" ", "_")
            figures[f"{column}_eer"] = trials.mean("eer")
            figures[f"{column}_fnmr_1e4"] = trials.mean("fnmr_1e4")


def _in_all_shapes(
    faces: Faces, hasher: "KerasFaceHasher", names: Sequence[str], arguments: argparse.Namespace, draws: "Draws"
) -> Rows:
    from benchmarks.key_trials import code_trials, codes_under_keys
    from iom.config import CodeConfig
    from iom.evaluation.systems import baseline_system

    rows = {}
    for name in names:
        for length, alphabet in shapes_of_bits(hasher.code_length, hasher.alphabet_size):
            if alphabet == 2 and name.startswith("cross_polytope"):
                continue  # a direction and its opposite: the same as the simplex
            code = CodeConfig(code_length=length, alphabet_size=alphabet)
            system = baseline_system(name, hasher.embedding_size, code, arguments.seed)
            codes = codes_under_keys(system, faces.embeddings, keys=arguments.keys, seed=arguments.seed)
            label = f"{name} {length}x{alphabet}"
            rows[label] = code_trials(faces.pairs, codes, draws)
            _show(label, rows[label])
    return rows


def shapes_of_bits(code_length: int, alphabet_size: int) -> list[tuple[int, int]]:
    """The shape itself, and those over 8, 4 and 2 symbols that are stored in as many bits."""
    bits = code_length * (alphabet_size - 1).bit_length()
    others = [(bits // (q - 1).bit_length(), q) for q in ALPHABETS if bits % (q - 1).bit_length() == 0]
    return list(dict.fromkeys([(code_length, alphabet_size), *others]))


def _identity(
    name: str, faces: Faces, hasher: "KerasFaceHasher", arguments: argparse.Namespace, draws: "Draws"
) -> dict[str, float | int | str | None]:
    """A hasher trained without a key: as it was trained, and under the keys it meets in use."""
    from benchmarks.key_trials import code_trials, codes_under_keys
    from iom.codes.packing import pack

    codes = hasher.hash_in_order(faces.embeddings, hasher.identity_order)
    identity = pack(codes, hasher.alphabet_size)
    unkeyed = code_trials(faces.pairs, [identity], draws)
    system = learned_system(hasher)
    random = codes_under_keys(system, faces.embeddings, keys=arguments.keys, seed=arguments.seed)
    keyed = code_trials(faces.pairs, random, draws)
    _show(f"{name}, identity", unkeyed)
    _show(f"{name}, random keys", keyed)
    return {
        f"{name}_identity_key_eer": unkeyed.mean("eer"),
        f"{name}_random_key_eer": keyed.mean("eer"),
        f"{name}_identity_key_fnmr_1e4": unkeyed.mean("fnmr_1e4"),
        f"{name}_random_key_fnmr_1e4": keyed.mean("fnmr_1e4"),
    }


def _rates(name: str, trials: "KeyTrials") -> dict[str, float | int | str | None]:
    """Means over keys, their spread, and the intervals where draws were made."""
    figures: dict[str, float | int | str | None] = {}
    for rate in RATES:
        figures[f"{name}_{rate}"] = trials.mean(rate)
        figures[f"{name}_{rate}_std"] = trials.std(rate)
        if trials.draws.replicates:
            low, high = trials.interval(rate)
            figures[f"{name}_{rate}_low"], figures[f"{name}_{rate}_high"] = low, high
    return figures


def _paired(name: str, other_name: str, trials: "KeyTrials", other: "KeyTrials") -> dict[str, float | int | str | None]:
    """Interval of the difference of two systems on the same draws."""
    figures: dict[str, float | int | str | None] = {}
    for rate in RATES if trials.draws.replicates else ():
        low, high = trials.difference(other, rate)
        figures[f"{name}_minus_{other_name}_{rate}_low"] = low
        figures[f"{name}_minus_{other_name}_{rate}_high"] = high
    return figures


def _bits(name: str, trials: "KeyTrials") -> dict[str, float | int | str | None]:
    return {f"{name}_effective_bits_{point}": trials.mean(f"effective_bits_{point}") for point in ("eer", "1e4")}


def _show(label: str, trials: "KeyTrials") -> None:
    cells = (f"{100 * trials.mean(rate):8.3f} ± {100 * trials.std(rate):6.3f}" for rate in RATES)
    print(f"{label:32s}" + "".join(f"{cell:>18s}" for cell in cells), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
