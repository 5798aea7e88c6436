"""What comparing in shares costs, without a network: plain, lite and full comparison in one run, and dealing.

python -m benchmarks.split_comparison [--comparisons 1000]
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.command_line import new_parser, run
from iom.codes.distances import paired
from iom.codes.packing import pack
from iom.split.comparison import (
    FullComparisonA,
    FullComparisonB,
    Offer,
    Opening,
    ReleaseShare,
    Reply,
    Session,
    difference_share,
    differing_positions,
    open_match,
)
from iom.split.correlations import CorrelationsA, CorrelationsB, Terms, deal_files
from iom.split.shares import code_from_bytes, code_to_bytes, commitment, share_code, share_secret

SHAPES = ((1536, 2, 600), (512, 8, 400), (192, 4, 130))
"""Code length, alphabet size, threshold: codes that were drawn differ in fewer or in more positions at even odds."""
SEED = 1


@dataclasses.dataclass(frozen=True)
class Stored:
    """One side's part of a record."""

    code: bytes
    secret: bytes
    commitment: bytes


class Clock:
    """Milliseconds by name."""

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {}

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = work()
        self.times.setdefault(name, []).append(1e3 * (time.perf_counter() - begin))
        return result

    def median(self, *names: str) -> float:
        """Median of the sum of some, at each turn."""
        return statistics.median(map(sum, zip(*(self.times[name] for name in names), strict=True)))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print one line of JSON a shape."""
    parser = new_parser("python -m benchmarks.split_comparison", str(__doc__))
    parser.add_argument("--comparisons", type=int, default=1000, help="of each shape; default: %(default)s")
    return run(measure_all, parser, argv)


def measure_all(arguments: argparse.Namespace) -> int:
    """Each shape, one after the other."""
    for shape in SHAPES:
        print(json.dumps(measure(Terms(*shape), arguments.comparisons)))
    return 0


def measure(terms: Terms, comparisons: int) -> dict[str, Any]:
    """Decisions and medians of one shape; plain, lite and full take turns on the same codes."""
    clock = Clock()
    random = np.random.default_rng(SEED)
    different = 0
    with tempfile.TemporaryDirectory() as scratch:
        paths = Path(scratch, "a.deal"), Path(scratch, "b.deal")
        clock("deal", lambda: deal_files(terms, comparisons, *paths))
        with CorrelationsA(paths[0], terms) as of_a, CorrelationsB(paths[1], terms) as of_b:
            for _ in tqdm(range(comparisons), desc=terms.encoding):
                code, probe = drawn_pair(random, terms)
                plain = clock("plain", lambda: paired(*code_pair(code, probe, terms), threads=1)[0] <= terms.threshold)  # noqa: B023
                lite = lite_decision(clock, terms, code, probe)
                full, traffic = full_decision(clock, terms, (code, probe), of_a, of_b)
                different += len({bool(plain), lite, full}) - 1
        kilobytes = [path.stat().st_size / comparisons / 1e3 for path in paths]
    full_a, full_b = clock.median("take", "A offer", "A finish"), clock.median("claim", "B reply", "B finish")
    return {
        "codes": terms.encoding,
        "comparisons": comparisons,
        "different": different,
        "plain_ms": round(clock.median("plain"), 4),
        "lite_a_ms": round(clock.median("lite A"), 4),
        "lite_b_ms": round(clock.median("lite B"), 4),
        "full_a_ms": round(full_a, 4),
        "full_b_ms": round(full_b, 4),
        "full_to_plain": round((full_a + full_b) / clock.median("plain"), 1),
        "full_to_lite": round((full_a + full_b) / clock.median("lite A", "lite B"), 1),
        "bytes_between_servers": traffic,
        "deal_ms": round(clock.times["deal"][0] / comparisons, 4),
        "deal_kb": [round(each, 2) for each in kilobytes],
    }


def drawn_pair(random: np.random.Generator, terms: Terms) -> tuple[bytes, bytes]:
    """A code and a probe whose distance is near the threshold."""
    code = random.integers(0, terms.alphabet_size, terms.code_length)
    probe = code.copy()
    places = random.permutation(terms.code_length)[: terms.threshold + random.integers(-20, 22)]
    probe[places] = (probe[places] + random.integers(1, terms.alphabet_size, len(places))) % terms.alphabet_size
    return tuple(code_to_bytes(pack(each[None], terms.alphabet_size)) for each in (code, probe))  # type: ignore[return-value]


def code_pair(code: bytes, probe: bytes, terms: Terms) -> list[Any]:
    """Both as packed codes."""
    return [code_from_bytes(each, terms.encoding) for each in (code, probe)]


def lite_decision(clock: Clock, terms: Terms, code: bytes, probe: bytes) -> bool:
    """Decision of a lite comparison."""
    (a, b), (probe_a, probe_b) = stored_pair(code, terms), share_code(probe, terms.encoding)
    message = clock("lite B", lambda: difference_share(b, probe_b, terms))
    distance = clock("lite A", lambda: differing_positions(difference_share(a, probe_a, terms), message, terms))
    return bool(distance <= terms.threshold)


def full_decision(
    clock: Clock, terms: Terms, pair: tuple[bytes, bytes], of_a: CorrelationsA, of_b: CorrelationsB
) -> tuple[bool, int]:
    """Decision of a full comparison, and the bytes between the servers."""
    (stored_a, stored_b), (probe_a, probe_b) = stored_pair(pair[0], terms), share_code(pair[1], terms.encoding)
    session = Session.begin(b"record", 0)
    taken = clock("take", of_a.take)
    claimed = clock("claim", lambda: of_b.claim(taken.deal, taken.index))

    def offer() -> tuple[FullComparisonA, bytes]:
        side = FullComparisonA(terms, session, stored_a, probe_a, lambda: taken)
        return side, side.offer().to_bytes()

    def reply() -> tuple[FullComparisonB, bytes]:
        side = FullComparisonB(terms, session, stored_b, probe_b, lambda *_: claimed)
        return side, side.reply(Offer.from_bytes(offered)).to_bytes()

    a, offered = clock("A offer", offer)
    b, replied = clock("B reply", reply)
    opening, from_a = clock("A finish", lambda: [m.to_bytes() for m in a.finish(Reply.from_bytes(replied))])
    from_b = clock("B finish", lambda: b.finish(Opening.from_bytes(opening)).to_bytes())
    secret = open_match(ReleaseShare.from_bytes(from_a), ReleaseShare.from_bytes(from_b), session)
    return secret is not None, len(offered) + len(replied) + len(opening)


def stored_pair(code: bytes, terms: Terms) -> tuple[Stored, Stored]:
    """Both sides' parts of a record."""
    secret, *shares = share_secret()
    a, b = zip(share_code(code, terms.encoding), shares, strict=True)
    return Stored(*a, commitment(secret)), Stored(*b, commitment(secret))


if __name__ == "__main__":
    raise SystemExit(main())
