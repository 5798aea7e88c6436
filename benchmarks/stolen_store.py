"""A record store stolen without its key store: common key without masks, with masks, and a key per record.

    python -m benchmarks.stolen_store
    python -m benchmarks.stolen_store --population fiw
    python -m benchmarks.stolen_store --systems grp biohash scalar_4bit --kinds subset part --known 10 50 200
    python -m benchmarks.stolen_store --files door.db door.keys
    python -m benchmarks.stolen_store --synthetic

One image each of half of LFW's subjects is enrolled in a real gallery, in a folder that is deleted afterwards. The
thief gets the bytes of the record store's file, the model, the faces of the other half (or of FIW), and k of the
enrolled by their enrolled photograph ("exact") or by another one ("other"). Accepted are reconstructions of enrolled
subjects whom he does not know, under 40 fresh keys, against another photograph of them, at FMR 1e-3 (found on 2,000
LFW images, keys stolen). Of all attacks on a stolen store the best one counts. `fmr` is what someone without the store
reaches with a stranger's face. Prints a table, then one line of JSON; rates are fractions. Figures without `exact` are
of other photographs; without `orthogonal`, of keys of kind `permutation`.

`--systems` attacks baselines and the hasher with keys of the kinds named, all under a common key without a gallery.
`--files` runs the attacks on files of a gallery of the subjects of `make_scene`, whose ids are `subject-000000` and so
on: a record store, an export, a backup, a core dump.
"""

import argparse
import contextlib
import json
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.attack_setting import add_data_arguments, load_setting
from benchmarks.command_line import new_parser, run
from benchmarks.tradeoff import FMR, FRESH_KEYS

if TYPE_CHECKING:
    from benchmarks.attack_setting import Setting
    from benchmarks.stolen_files import Scene
    from iom.attacks.base import AttackedSystem
    from iom.evaluation.records import StolenStoreRow
    from iom.evaluation.stolen_store import Enrolled
    from iom.gallery.gallery import Gallery
    from iom.models.face_hasher import KerasFaceHasher

HASHER = "pre_models/mobilefacenet_y1_1536x2"
KNOWN = (0, 2, 5, 10, 20, 50, 100, 200)
COMPARED = 10
"""Known subjects at which masks and keys per record are compared to the control."""
IMAGES, THRESHOLD_KEYS = 2000, 2
PASSPHRASE = "a passphrase of the benchmark"  # noqa: S105 - protects nothing
PROTECTIONS = {
    "common": {"key_mode": "application", "masked": False},
    "masked": {"key_mode": "application", "masked": True},
    "per_record": {"key_mode": "subject", "masked": False},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.stolen_store`."""
    parser = new_parser("python -m benchmarks.stolen_store", str(__doc__))
    add_data_arguments(parser)
    parser.set_defaults(victims=100)
    parser.add_argument("--hasher", type=Path, default=Path(HASHER), help="default: %(default)s")
    parser.add_argument("--kinds", nargs="*", default=["permutation", "orthogonal"], help="default: both")
    parser.add_argument("--known", nargs="+", type=int, default=list(KNOWN), help="default: %(default)s")
    parser.add_argument(
        "--population", choices=("strangers", "fiw"), default="strangers",
        help="whom the thief learns from: LFW's other half, or FIW; default: %(default)s",
    )  # fmt: skip
    parser.add_argument("--systems", nargs="*", help="attack these baselines and `--kinds` under a common key instead")
    parser.add_argument("--files", nargs="+", type=Path, help="attack these files instead")
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    from benchmarks.stolen_files import attack_files
    from iom.evaluation.report.text import STOLEN_STORE, figure_table

    setting = load_setting(arguments)
    if arguments.systems is not None:
        return _measure_systems(arguments, setting)
    figures: dict[str, Any] = {}
    table: dict[tuple[str, ...], dict[str, Any]] = {}
    for kind in arguments.kinds:
        scene = make_scene(arguments, setting, kind)
        if arguments.files:
            found = attack_files(arguments.files, scene)
            figures |= {"records": found.records, "acceptance": found.best.accepted_fresh, "is_chance": found.is_chance}
            print(json.dumps({"kind": kind, **figures, "fmr": found.guess.accepted_fresh}))
            continue
        for protection in PROTECTIONS:
            rows = stolen_rows(arguments, scene, kind, protection)
            figures |= _figures(rows, kind, protection)
            for row in rows:
                if not row.obstacle:
                    place = (kind, protection.replace("_", " "), row.acquaintance, row.attack)
                    table[place] = {name: row.estimate(name) for name in ("cosine", "accepted_old", "accepted_fresh")}
    if not arguments.files:
        print(figure_table(table, STOLEN_STORE, labels=("keys", "store", "known subjects", "attack")).markdown())
        print(json.dumps(figures))
    return 0


def make_scene(arguments: argparse.Namespace, setting: "Setting", kind: str) -> "Scene":
    """The hasher with keys of a kind, its threshold, and the subjects of a gallery."""
    from benchmarks.attacks import with_key_kind
    from benchmarks.stolen_files import Scene
    from iom.attacks.targets import attacked_hasher
    from iom.evaluation.attacks import AttackKeys, measuring_keys

    enrolled = _enrolled(arguments, setting)
    hasher = _hasher(arguments, setting.faces.shape[1])
    hasher = hasher if hasher.key_kind == kind else with_key_kind(hasher, kind)
    system = attacked_hasher(kind, hasher)
    threshold = _threshold(arguments, setting, system)
    keys = AttackKeys(measuring_keys(arguments.seed, "old", 1), measuring_keys(arguments.seed, "fresh", FRESH_KEYS))
    names = [f"subject-{row:06d}" for row in range(len(enrolled.samples))]
    return Scene(system, threshold, names, enrolled, keys, hasher.code_length, COMPARED, arguments.seed, hasher=hasher)


def _enrolled(arguments: argparse.Namespace, setting: "Setting") -> "Enrolled":
    from iom.evaluation.stolen_store import draw_enrolled

    labels = setting.pairs.subjects.astype("int64")
    strangers: dict[str, Any] = {}
    if getattr(arguments, "population", "") == "fiw":
        strangers = {"population": setting.victims.population, "population_labels": setting.victims.population_labels}
    return draw_enrolled(
        setting.faces, labels, victims=arguments.victims, limit=len(labels), seed=arguments.seed, **strangers
    )


def _threshold(arguments: argparse.Namespace, setting: "Setting", system: "AttackedSystem") -> float:
    from benchmarks.attacks import decision_threshold
    from iom.evaluation.attacks import measuring_keys

    labels = setting.pairs.subjects[:IMAGES].astype("int64")
    keys = measuring_keys(arguments.seed, "threshold", THRESHOLD_KEYS)
    return decision_threshold(system, setting.faces[:IMAGES], labels, fmr=FMR, keys=keys)


def _measure_systems(arguments: argparse.Namespace, setting: "Setting") -> int:
    """Baselines at 192 bytes, and the hasher with other keys, under a common key; the best attack counts."""
    from iom.attacks.targets import attacked_protection
    from iom.baselines import BASELINES
    from iom.config import CodeConfig
    from iom.evaluation.attacks import AttackKeys, measuring_keys
    from iom.evaluation.report.text import stolen_store_table
    from iom.evaluation.stolen_store import Store, stolen_store_rows

    size, code = setting.faces.shape[1], CodeConfig(code_length=512, alphabet_size=8)
    systems = [attacked_protection(name, BASELINES[name](size, code, 1), size) for name in arguments.systems]
    systems += [make_scene(arguments, setting, kind).system for kind in arguments.kinds]
    enrolled, rows = _enrolled(arguments, setting), []
    keys = AttackKeys(measuring_keys(arguments.seed, "old", 1), measuring_keys(arguments.seed, "fresh", FRESH_KEYS))
    for system in systems:
        stores = [Store(system.hash(enrolled.samples, key), key) for key in keys.old]
        threshold = _threshold(arguments, setting, system)
        found = list(
            stolen_store_rows(system, threshold, enrolled, stores, keys, known=arguments.known, seed=arguments.seed)
        )
        print(stolen_store_table(found).plain(), flush=True)
        rows += found
    print(stolen_store_table(rows).markdown())
    print(json.dumps({"rows": [row.model_dump(mode="json") for row in rows]}))
    return 0


def _hasher(arguments: argparse.Namespace, embedding_size: int) -> "KerasFaceHasher":
    from iom.config import HasherConfig
    from iom.models.face_hasher import KerasFaceHasher
    from iom.nn.hash_network import build_hasher

    if not arguments.synthetic:
        return KerasFaceHasher.load(arguments.hasher)
    config = HasherConfig(code_length=512, alphabet_size=2, projection="simplex", refinement_steps=10)
    return KerasFaceHasher(
        build_hasher(embedding_size, config, seed=1), embedder_name="-", embedder_fingerprint="0" * 64
    )


@contextlib.contextmanager
def enrolled_gallery(scene: "Scene", folder: Path, *, key_mode: str, masked: bool) -> Iterator["Gallery"]:
    """A gallery `door.db`, `door.keys` of the subjects of a scene, in a folder."""
    from iom.gallery.gallery import Gallery

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of keys and stores that hide little: that is what is measured
        gallery = Gallery.open(
            folder / "door.db", keys=folder / "door.keys", hasher=scene.hasher, create=True, passphrase=PASSPHRASE
        )
        with gallery:
            gallery.create_application("default", threshold=int(scene.threshold), key_mode=key_mode, masked=masked)
            gallery.enroll_many(list(scene.names), scene.enrolled.samples)
            yield gallery


def stolen_rows(arguments: argparse.Namespace, scene: "Scene", kind: str, protection: str) -> list["StolenStoreRow"]:
    """All attacks on the bytes of a record store; of unmasked ones under a common key with every number of known."""
    from benchmarks.stolen_files import attack_gallery, read_codes, templates_of
    from iom.gallery.templates import record_keys

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        with enrolled_gallery(scene, folder, **PROTECTIONS[protection]) as gallery:  # type: ignore[arg-type]
            disclosed = attack_gallery(gallery, scene)
            subjects = gallery.subjects()
            victims = [subjects[scene.names[row]][0] for row in scene.enrolled.wanted]
            references = [(each.subject_id, each.record, each.epoch) for each in victims]
            keys = record_keys(gallery.keys, gallery.application("default"), references)
        (reading,) = read_codes((folder / "door.db").read_bytes(), scene.names, scene.encoding)
    known = arguments.known if protection == "common" else (0, COMPARED)
    rows = scene.rows(templates_of(reading, scene), known=known, keys=keys)
    print(f"{kind}, {protection}: {len(reading)} templates read from the file", flush=True)
    return [*rows, disclosed]


def _figures(rows: Sequence["StolenStoreRow"], kind: str, protection: str) -> dict[str, Any]:
    from benchmarks.stolen_files import best_row, meet
    from iom.evaluation.records import NO_STORE

    (guess,) = (row for row in rows if row.attack == NO_STORE)
    where = protection if kind == "permutation" else f"{protection}_{kind}"
    figures: dict[str, Any] = {}
    of_store = [row for row in rows if "key" not in row.knowledge and not row.obstacle]
    for count, photograph in dict.fromkeys((row.known, row.photograph) for row in of_store):
        able = [row for row in of_store if (row.known, row.photograph) == (count, photograph)]
        if [row for row in able if row.attack != NO_STORE]:
            best = best_row(able)
            name = f"{where}_{count}_known" + ("_exact" if photograph == "enrolled" else "")
            figures[f"acceptance_{name}"] = best.accepted_fresh
            figures[f"interval_{name}"] = best.intervals["accepted_fresh"]
            figures[f"cosine_{name}"] = best.cosine
            figures[f"is_chance_{name}"] = meet(best, guess)
    (disclosed,) = (row for row in rows if "key" in row.knowledge)
    figures[f"acceptance_{where}_both_stores"] = disclosed.accepted_fresh
    if kind == "permutation" and protection == "common":
        figures |= {"fmr": guess.accepted_fresh, "fmr_interval": guess.intervals["accepted_fresh"]}
    return figures


if __name__ == "__main__":
    raise SystemExit(main())
