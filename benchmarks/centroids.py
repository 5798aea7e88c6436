"""Several enrolment images of a subject: one template of their mean or vote, or all of them.

    python -m benchmarks.centroids

Subjects of LFW with six images or more enrol their first 1, 2, 3, 5; their probes are always the
images from the sixth on, at most 15 of each. Everybody else stands in the gallery with one image.
Closed-set identification and verification (each probe against the whole gallery), codes under one
stolen key at a time, means over keys. Ways: `float centroid` (mean of unit embeddings), `float
nearest` (smallest distance to any of the images), `code of centroid`, `code majority` (ties to the
lowest symbol), `code majority, nearest` (ties to the image that agrees most with the others), `code
nearest` (smallest distance to any of the codes). The last two columns: error rates against the
enrolled subjects alone at the threshold that the hasher was calibrated to with single images. Ends
with one line of JSON.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from benchmarks.command_line import add_data_option, new_parser, run

COUNTS = (1, 2, 3, 5)
PROBES = 15
FMRS = {"fnmr_1e-3": 1e-3, "fnmr_1e-4": 1e-4}
HASHER = "pre_models/mobilefacenet_y1_512x8"


class Setting(NamedTuple):
    """Rows of the embeddings: enrolment images `(S, 5)`, others, probes and whose they are."""

    enrolled: Any
    others: Any
    probes: Any
    subject: Any


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.centroids`."""
    parser = new_parser("python -m benchmarks.centroids", str(__doc__))
    add_data_option(parser)
    parser.add_argument("--hasher", default=HASHER, help="default: %(default)s")
    parser.add_argument("--keys", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="of the keys; default: %(default)s")
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    import numpy as np
    from tqdm import tqdm

    from benchmarks.stored_embeddings import embeddings_of
    from iom.config import FolderConfig
    from iom.data.folders import scan_folder
    from iom.evaluation.scores import common_key
    from iom.models.face_hasher import KerasFaceHasher

    data = arguments.data
    root = data / "lfw_112x112"
    folder = scan_folder(FolderConfig(root=str(root), min_images=1))
    embeddings = embeddings_of(folder.files, root, data)
    hasher = KerasFaceHasher.load(arguments.hasher)
    setting = _setting(np.asarray(folder.labels))
    figures: dict[str, Any] = {
        "subjects": len(setting.enrolled),
        "gallery": len(setting.enrolled) + len(setting.others),
        "probes": len(setting.probes),
        "keys": arguments.keys,
    }
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for way, count, distances in _float_ways(embeddings, setting):
        found.setdefault((way, count), []).append(_figures(distances, setting))
    for number in tqdm(range(arguments.keys), unit="key"):
        key = common_key(arguments.seed, number)

        def code(rows: Any, key: Any = key) -> Any:
            return hasher.hash(np.asarray(rows, np.float32), key)

        for way, count, distances in _code_ways(embeddings, setting, code, hasher.alphabet_size):
            figures_of = _figures(distances, setting)
            if hasher.calibration is not None:
                figures_of |= _at(distances, setting, hasher.calibration.threshold)
            found.setdefault((way, count), []).append(figures_of)
    print(f"{'way':24} images  rank 1 %   EER %  FNMR % at FMR 1e-3     1e-4   calibrated FMR %  FNMR %")
    for (way, count), each in found.items():
        mean = {name: float(np.mean([one[name] for one in each])) for name in each[0]}
        figures[f"{way.replace(',', '').replace(' ', '_')}_{count}"] = {
            name: round(value, 6) for name, value in mean.items()
        }
        rank, eer, first, second = (100 * mean[name] for name in ("rank_1", "eer", *FMRS))
        line = f"{way:24} {count:6} {rank:9.2f} {eer:7.3f} {first:19.2f} {second:8.2f}"
        if "calibrated_fmr" in mean:
            line += f" {100 * mean['calibrated_fmr']:18.4f} {100 * mean['calibrated_fnmr']:7.2f}"
        print(line)
    print(json.dumps(figures))
    return 0


def _setting(labels: Any) -> Setting:
    import numpy as np

    enrolled, others, probes, subject = [], [], [], []
    for label in range(int(labels.max()) + 1):
        rows = np.flatnonzero(labels == label)
        if len(rows) <= max(COUNTS):
            others.append(rows[0])
            continue
        tried = rows[max(COUNTS) :][:PROBES]
        subject += [len(enrolled)] * len(tried)
        enrolled.append(rows[: max(COUNTS)])
        probes += tried.tolist()
    return Setting(*(np.array(part) for part in (enrolled, others, probes, subject)))


def _float_ways(embeddings: Any, setting: Setting) -> Any:
    import numpy as np

    from iom.metrics.template_pooling import mean_vectors

    probes, others = embeddings[setting.probes], embeddings[setting.others]
    beside = 1.0 - probes @ others.T
    for count in COUNTS:
        images = embeddings[setting.enrolled[:, :count]]
        groups = np.repeat(np.arange(len(images)), count)
        centres = mean_vectors(images.reshape(len(groups), -1), groups)
        yield "float centroid", count, np.hstack([1.0 - probes @ centres.T, beside])
        each = 1.0 - probes @ images.reshape(len(groups), -1).T
        nearest = each.reshape(len(probes), -1, count).min(axis=2)
        yield "float nearest", count, np.hstack([nearest, beside])


def _code_ways(embeddings: Any, setting: Setting, code: Callable[[Any], Any], alphabet_size: int) -> Any:
    import numpy as np

    from iom.codes.distances import all_pairs
    from iom.codes.packing import pack
    from iom.metrics.template_pooling import majority_codes, mean_vectors

    def distances(rows: Any) -> Any:
        return all_pairs(probes, pack(rows, alphabet_size))

    probes = pack(code(embeddings[setting.probes]), alphabet_size)
    beside = distances(code(embeddings[setting.others]))
    flat = setting.enrolled.reshape(-1)
    codes = code(embeddings[flat]).reshape(*setting.enrolled.shape, -1)
    for count in COUNTS:
        groups = np.repeat(np.arange(len(codes)), count)
        images = codes[:, :count].reshape(len(groups), -1)
        vectors = embeddings[setting.enrolled[:, :count]].reshape(len(groups), -1)
        ways = {
            "code of centroid": code(mean_vectors(vectors, groups)),
            "code majority": majority_codes(images, groups, alphabet_size),
            "code majority, nearest": majority_of_nearest(images, groups),
        }
        for way, templates in ways.items():
            yield way, count, np.hstack([distances(templates), beside])
        each = distances(images).reshape(len(setting.probes), -1, count)
        yield "code nearest", count, np.hstack([each.min(axis=2), beside])


def majority_of_nearest(codes: Any, groups: Any) -> Any:
    """The commonest symbol at each position of a group's codes `(N, M)`, ties to the image that agrees most.

    Of equally common symbols it is that of the image which agrees with most of its group over all positions, the first
    of several. `groups` `(N,)` are numbers from 0 without gaps; the result is `(G, M)`.
    """
    import numpy as np

    chosen = []
    for group in range(max(groups) + 1):
        own = np.asarray(codes)[np.asarray(groups) == group]
        votes = (own[:, None] == own).sum(axis=1)
        order = np.argsort(-votes.sum(axis=1), kind="stable")
        chosen.append(own[order[np.argmax(votes[order], axis=0)], np.arange(own.shape[1])])
    return np.stack(chosen)


def _figures(distances: Any, setting: Setting) -> dict[str, float]:
    """Of distances `(probes, gallery)`, the enrolled subjects first; ties count against."""
    import numpy as np

    from iom.metrics.verification import error_curve, histogram_curve

    rows = np.arange(len(distances))
    mated = distances[rows, setting.subject]
    is_other = np.ones(distances.shape, bool)
    is_other[rows, setting.subject] = False
    best = distances.min(axis=1, where=is_other, initial=np.inf if distances.dtype.kind == "f" else
                         np.iinfo(distances.dtype).max)  # fmt: skip
    if distances.dtype.kind == "f":
        curve = error_curve(mated, distances[is_other])
    else:
        levels = int(distances.max()) + 1
        counts = np.bincount(distances.ravel(), minlength=levels)
        own = np.bincount(mated, minlength=levels)
        curve = histogram_curve(own, counts - own)
    return {
        "rank_1": float((best > mated).mean()),
        "eer": curve.equal_error_rate(),
        **{name: curve.fnmr_at_fmr(fmr) for name, fmr in FMRS.items()},
    }


def _at(distances: Any, setting: Setting, threshold: int) -> dict[str, float]:
    """Error rates at a threshold, against the enrolled subjects alone."""
    import numpy as np

    matches = distances[:, : len(setting.enrolled)] <= threshold
    own = matches[np.arange(len(distances)), setting.subject]
    false = int(matches.sum()) - int(own.sum())
    return {"calibrated_fmr": false / (matches.size - len(own)), "calibrated_fnmr": 1.0 - float(own.mean())}


if __name__ == "__main__":
    raise SystemExit(main())
