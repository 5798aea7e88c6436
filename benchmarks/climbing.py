"""Climbing to a template by answers of yes or no, without and with the service's back-off.

    python -m benchmarks.climbing
    python -m benchmarks.climbing --synthetic --victims 3

Victims are subjects of LFW, each enrolled with one image under a key of its own. The attacker can
only ask the service whether a face matches a subject. He tries the photographs of FIW until one
does (the first hit); looks for the border between it and a photograph that does not match; asks
about random directions there; and takes the mean of those that match as the direction to the
victim (decision-based attack: HopSkipJump, Chen et al., S&P 2020). Cosines are between what he has
and the victim's embedding, counted in tries from the first hit on; victims without a first hit
among all photographs are left out of them.

The answers of each climb are then played through the limits of the service, by a clock that stands
still but for the waits: the rate limit alone ("before"), and with the back-off for one token
("after"). Prints one line of JSON; times are minutes, medians over the victims that were hit.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.command_line import add_data_option, new_parser, run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HASHER = Path("pre_models/mobilefacenet_y1_1536x2")
TRIES = 10_000
REPORTED = (2000, 5000, 10_000)
TIMED = 5000
STEP = 0.4
"""Radians from the border to the faces that are tried around it."""
CHUNK = 1024
"""Photographs that are hashed at a time."""
HALVINGS = 12
"""Tries that look for the border."""
SYNTHETIC_SIZE, SYNTHETIC_BITS, SYNTHETIC_PHOTOGRAPHS = 32, 512, 4000


class Setting(NamedTuple):
    """What is attacked: embeddings, and how codes are made and compared."""

    enrolled: "NDArray[np.float32]"
    others: "NDArray[np.float32]"
    photographs: "NDArray[np.float32]"
    hash: Callable[..., Any]
    threshold: int


class Climb(NamedTuple):
    """One victim's.

    Attributes:
        first_hit: Tries until the first match, or 0 where there was none.
        answers: Of the tries behind it.
        cosines: To the victim's embedding after each number of `REPORTED` tries.
        found: The embedding in the end `(D,)`.
    """

    first_hit: int
    answers: "NDArray[np.bool_]"
    cosines: dict[int, float]
    found: "NDArray[np.float32]"


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.climbing`."""
    parser = new_parser("python -m benchmarks.climbing", str(__doc__))
    add_data_option(parser)
    parser.add_argument("--hasher", type=Path, default=HASHER, help="default: %(default)s")
    parser.add_argument("--victims", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--tries", type=int, default=TRIES, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--synthetic", action="store_true", help="random vectors in place of faces; no data")
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    import numpy as np
    from tqdm import tqdm

    from iom._random import numpy_stream
    from iom.keys import SECRET_BYTES, TransformKey

    setting = (_synthetic if arguments.synthetic else _faces)(arguments)
    stream = numpy_stream(arguments.seed, "climbing/keys")
    keys = [TransformKey(stream.bytes(SECRET_BYTES)) for _ in range(2 * len(setting.enrolled))]
    climbs, accepted = [], []
    for number, victim in enumerate(tqdm(setting.enrolled, desc="victims", unit="victim")):
        old, fresh = keys[2 * number : 2 * number + 2]
        code = setting.hash(victim[None], old)
        stream = numpy_stream(arguments.seed, f"climbing/{number}")

        def asks(rows: "NDArray[np.float32]", key=old, code=code) -> "NDArray[np.bool_]":
            return (setting.hash(rows, key) != code).sum(axis=1) <= setting.threshold

        one = climb(asks, victim, setting.photographs, stream, tries=arguments.tries)
        climbs.append(one)
        if one.first_hit:
            renewed = setting.hash(np.stack([one.found, setting.others[number]]), fresh)
            accepted.append(int((renewed[0] != renewed[1]).sum()) <= setting.threshold)
    hit = [each for each in climbs if each.first_hit]
    figures: dict[str, Any] = {
        "victims": len(climbs),
        "victims_hit": len(hit),
        "first_hit_tries_median": statistics.median([each.first_hit or math.inf for each in climbs]),
    }
    for tries in [each for each in REPORTED if each <= arguments.tries]:
        cosines = [each.cosines[tries] for each in hit]
        figures[f"cosine_after_{tries}"] = round(statistics.median(cosines), 3)
    figures["accepted_under_fresh_key"] = round(float(np.mean(accepted)), 3)
    figures["answers_that_match"] = round(float(np.mean([each.answers.mean() for each in hit])), 3)
    timed = min(TIMED, arguments.tries)
    for name, limits in (("before", False), ("after", True)):
        to_hit = [minutes([False] * (each.first_hit - 1) + [True], limits) for each in hit]
        to_climb = [minutes(each.answers[:timed].tolist(), limits) for each in hit]
        figures[f"minutes_to_first_hit_{name}"] = round(statistics.median(to_hit), 1)
        figures[f"minutes_for_{timed}_tries_{name}"] = round(statistics.median(to_climb), 1)
    print(json.dumps(figures))
    return 0


def climb(
    asks: Callable[["NDArray[np.float32]"], "NDArray[np.bool_]"],
    victim: "NDArray[np.float32]",
    photographs: "NDArray[np.float32]",
    stream: "np.random.Generator",
    *,
    tries: int,
) -> Climb:
    """Climb to one victim, with so many tries behind the first hit.

    Args:
        asks: Whether faces `(N, D)` match.
        victim: Only to measure how near it is, `(D,)`.
        photographs: Of other people, `(P, D)`.
        stream: Randomness.
        tries: Behind the first hit.
    """
    import numpy as np

    order = stream.permutation(len(photographs))
    for start in range(0, len(order), CHUNK):
        answers = asks(photographs[order[start : start + CHUNK]])
        if answers.any():
            first = start + int(np.argmax(answers))
            break
    else:
        return Climb(0, np.zeros(0, bool), {}, victim)
    hit, miss = photographs[order[first]], photographs[order[first - 1]]
    if first == 0:
        miss = -hit
    inside, outside, told = hit, miss, []
    for _ in range(HALVINGS):
        middle = _unit(inside + outside)
        told.append(bool(asks(middle[None])[0]))
        inside, outside = (middle, outside) if told[-1] else (inside, middle)
    count = tries - HALVINGS
    directions = stream.standard_normal((count, len(victim))).astype(np.float32)
    directions = _unit(directions - (directions @ inside)[:, None] * inside)
    matched = asks(np.cos(STEP) * inside + np.sin(STEP) * directions)
    cosines, found = {}, inside
    for number in sorted({each for each in REPORTED if each <= tries} | {tries}):
        found = _towards(inside, directions[: number - HALVINGS], matched[: number - HALVINGS])
        cosines[number] = float(found @ victim)
    return Climb(first + 1, np.concatenate([told, matched]), cosines, found)


def _towards(
    border: "NDArray[np.float32]", directions: "NDArray[np.float32]", matched: "NDArray[np.bool_]"
) -> "NDArray[np.float32]":
    """The face that the answers around a point of the border point to.

    From the share of matches follows how far it is: at an angle `a` from the border, a try in a
    random direction at `STEP` matches where its component towards the victim is above
    `tan(STEP / 2) / tan(a)`.
    """
    import numpy as np
    from scipy.stats import norm

    share = float(np.clip(matched.mean(), 1e-3, 0.499))
    component = norm.isf(share) / math.sqrt(len(border) - 1)
    angle = math.atan2(math.tan(STEP / 2), component)
    mean = ((matched - matched.mean())[:, None] * directions).sum(axis=0)
    normal = _unit(mean - (mean @ border) * border)
    return np.asarray(math.cos(angle) * border + math.sin(angle) * normal, np.float32)


def minutes(answers: Sequence[bool], with_backoff: bool) -> float:
    """How long these tries take at the service's default limits, by one token on one subject."""
    from iom.errors import RateLimitError
    from iom.service.rate_limit import Backoff, RateLimit
    from iom.service.settings import ServiceSettings

    settings, now = ServiceSettings(), 0.0
    rate = RateLimit(settings.rate, settings.burst, clock=lambda: now)
    backoff = Backoff(settings.failures, lambda *event: None, clock=lambda: now)
    for answer in answers:
        while True:
            if wait := rate.wait("token"):
                now += wait + 1e-9
                continue
            if not with_backoff:
                break
            try:
                with backoff.verification("token", "application", "subject") as attempt:
                    attempt.is_match = answer
                break
            except RateLimitError as error:
                now += math.ceil(error.retry_after)
    return now / 60


def _faces(arguments: argparse.Namespace) -> Setting:
    import numpy as np

    from iom._random import numpy_stream
    from iom.errors import DataError
    from iom.models.face_hasher import KerasFaceHasher

    def stored(name: str) -> Any:
        path = arguments.data / "embeddings" / f"{name}.mobilefacenet_y1.npz"
        if not path.is_file():
            raise DataError(f"no embeddings {path}: see docs/reproduce.md, or try --synthetic")
        with np.load(path, allow_pickle=False) as content:
            return content["embedding"], [each.split("/")[-2] for each in content["path"].tolist()]

    hasher = KerasFaceHasher.load(arguments.hasher)
    if hasher.calibration is None:
        raise DataError(f"{arguments.hasher}: expected a calibrated hasher; run iom calibrate")
    rows, names = stored("lfw_112x112")
    images: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        images.setdefault(name, []).append(row)
    subjects = [each for each in images.values() if len(each) > 1]
    stream = numpy_stream(arguments.seed, "climbing/victims")
    chosen = stream.choice(len(subjects), arguments.victims, replace=False)
    pairs = np.array([subjects[each][:2] for each in chosen])
    photographs, _ = stored("fiw_112x112")
    return Setting(
        rows[pairs[:, 0]],
        rows[pairs[:, 1]],
        np.asarray(photographs, np.float32),
        hasher.hash,
        int(hasher.calibration.threshold),
    )


def _synthetic(arguments: argparse.Namespace) -> Setting:
    """Random vectors and signs of random projections: shows that it runs, says nothing of faces."""
    import numpy as np

    from iom._random import numpy_stream
    from iom.baselines.binary import PublicSigns

    stream = numpy_stream(arguments.seed, "climbing/synthetic")
    shape = (arguments.victims, SYNTHETIC_SIZE)
    enrolled = _unit(stream.standard_normal(shape).astype(np.float32))
    others = _unit(enrolled + 0.1 * stream.standard_normal(shape).astype(np.float32))
    photographs = stream.standard_normal((SYNTHETIC_PHOTOGRAPHS, SYNTHETIC_SIZE))
    signs = PublicSigns(SYNTHETIC_SIZE, SYNTHETIC_BITS, keep=0, seed=arguments.seed, purpose="climbing/signs")
    threshold = round(SYNTHETIC_BITS * math.acos(0.45) / math.pi)
    return Setting(enrolled, others, _unit(photographs.astype(np.float32)), signs.bits, threshold)


def _unit(rows: "NDArray[np.float32]") -> "NDArray[np.float32]":
    import numpy as np

    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True), np.float32)


if __name__ == "__main__":
    raise SystemExit(main())
