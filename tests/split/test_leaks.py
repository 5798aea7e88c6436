"""What one side of a comparison sees is the same whatever code and probe are; what both see is the code.

The exact argument is a coupling: to each run on one pair of code and probe belongs a run on any other pair, with other
random numbers of the parties this side does not see, in which everything that the side sees is the same, byte for byte.
As those numbers are uniform, what the side sees has one distribution.
"""

import dataclasses
import secrets

import numpy as np
import pytest

from iom.codes.packing import pack, unpack
from iom.split.comparison import (
    FullComparisonA,
    FullComparisonB,
    Opening,
    Reply,
    Session,
    difference_share,
    differing_positions,
    open_match,
)
from iom.split.correlations import Claimed, CorrelationA, CorrelationB, Terms, deal
from iom.split.shares import code_to_bytes, commitment, join_code, record_label, share_code, share_secret, xor

TERMS = Terms(64, 4, 20)
SESSION = Session(bytes(16), bytes(32), 0)


@dataclasses.dataclass(frozen=True)
class Stored:
    code: bytes
    secret: bytes
    commitment: bytes


@dataclasses.dataclass(frozen=True, eq=False)
class AnyTable(CorrelationA):
    """A's part with a table of its own instead of the cipher: opened value to entry."""

    known: dict

    def entry(self, opened):
        return self.known[opened] if opened in self.known else super().entry(opened)


@dataclasses.dataclass
class World:
    """Everything in one comparison: what all parties hold."""

    code: bytes
    probe: bytes
    code_a: bytes
    probe_a: bytes
    secret: bytes
    secret_a: bytes
    part_a: CorrelationA
    part_b: CorrelationB
    salts: tuple[bytes, bytes]

    @classmethod
    def random(cls, code, probe, terms=TERMS):
        secret, secret_a, _ = share_secret()
        shares = (share_code(each, terms.encoding)[0] for each in (code, probe))
        salts = secrets.token_bytes(16), secrets.token_bytes(16)
        return cls(code, probe, *shares, secret, secret_a, *deal(terms), salts)

    def run(self, terms=TERMS):
        """The views of A, of B, and of the capture side: all bytes that a party holds, sends and receives."""
        committed = commitment(self.secret)
        code_b, probe_b, secret_b = xor(self.code, self.code_a), xor(self.probe, self.probe_a), None
        secret_b = xor(self.secret, self.secret_a)
        stored_a, stored_b = Stored(self.code_a, self.secret_a, committed), Stored(code_b, secret_b, committed)
        of_a, of_b = (Claimed(bytes(16), 0, part) for part in (self.part_a, self.part_b))
        salt_a, salt_b = self.salts
        a = FullComparisonA(terms, SESSION, stored_a, self.probe_a, lambda: of_a, random=lambda _: salt_a)
        b = FullComparisonB(terms, SESSION, stored_b, probe_b, lambda *_: of_b, random=lambda _: salt_b)
        offer = a.offer()
        reply = b.reply(offer)
        opening, from_a = a.finish(reply)
        from_b = b.finish(opening)
        messages = [each.to_bytes() for each in (offer, reply, opening)]
        held_a = [self.code_a, self.probe_a, self.secret_a, committed, *_bytes_of(self.part_a.bits, self.part_a.shares)]
        held_b = [code_b, probe_b, secret_b, committed, self.part_b.to_bytes()]
        view_a, view_b = [*held_a, *messages, from_a.to_bytes()], [*held_b, *messages, from_b.to_bytes()]
        return view_a, view_b, open_match(from_a, from_b, SESSION) is not None

    @property
    def delta(self):
        return (int(self.part_a.shares[-2]) + int(self.part_b.shares[-2])) % TERMS.modulus

    @property
    def mask(self):
        return (int(self.part_a.shares[-1]) + int(self.part_b.shares[-1])) % TERMS.modulus


def _bytes_of(*arrays):
    return [array.tobytes() for array in arrays]


def subsets(share):
    """Bits that are compared, of a share of 64 symbols of two planes."""
    low, high = share[:8], share[8:]
    return np.frombuffer(low + high + xor(low, high), np.uint8)


def partner(part, own_bits, delta, mask):
    """Shares that complete those of `part` to products of `delta` with the bits, `delta` and `mask`."""
    differs = np.unpackbits(part.bits ^ own_bits, bitorder="little")
    whole = [*(int(each) * delta for each in differs), delta, mask]
    return np.array([(x - int(y)) % TERMS.modulus for x, y in zip(whole, part.shares, strict=True)], np.uint64)


def as_a_sees_it(world, code, probe):
    """The world with another code and probe, and other random numbers of B, in which A sees the same."""
    difference = xor(xor(world.code, world.probe), xor(code, probe))
    bits = world.part_b.bits ^ subsets(difference)
    distance = [differing(each) for each in ((world.code, world.probe), (code, probe))]
    # E = Delta d + R stays: A's view has it.
    mask = (world.mask + world.delta * (distance[0] - distance[1])) % TERMS.modulus
    entries = {(world.delta * d + mask) % TERMS.modulus: d for d in range(TERMS.threshold + 1)}
    table = np.random.default_rng(0).integers(0, 256, world.part_b.table.shape, np.uint8)
    for opened in entries:
        table[opened % TERMS.entries] = np.frombuffer(world.part_a.entry(opened), np.uint8)
    part_b = CorrelationB(bits, partner(world.part_a, bits, world.delta, mask), table)
    return dataclasses.replace(world, code=code, probe=probe, part_b=part_b)


def as_b_sees_it(world, code, probe):
    """The world with another code and probe, and other random numbers of A, in which B sees the same."""
    difference = xor(xor(world.code, world.probe), xor(code, probe))
    bits = world.part_a.bits ^ subsets(difference)
    distance = [differing(each) for each in ((world.code, world.probe), (code, probe))]
    mask = (world.mask + world.delta * (distance[0] - distance[1])) % TERMS.modulus
    matching = [(world.delta * d + mask) % TERMS.modulus for d in range(TERMS.threshold + 1)]
    known = {opened: bytes(world.part_b.table[opened % TERMS.entries]) for opened in matching}
    shares = partner(world.part_b, bits, world.delta, mask)
    part_a = AnyTable(bits, shares, secrets.token_bytes(32), known)
    code_a = xor(code, xor(world.code, world.code_a))
    probe_a = xor(probe, xor(world.probe, world.probe_a))
    return dataclasses.replace(world, code=code, probe=probe, code_a=code_a, probe_a=probe_a, part_a=part_a)


def differing(pair):
    return int(np.count_nonzero(symbols(pair[0]) != symbols(pair[1])))


def symbols(code):
    return unpack(join_code(code, bytes(len(code)), TERMS.encoding))


def codes(count, seed):
    random = np.random.default_rng(seed)
    return [code_to_bytes(pack(random.integers(0, 4, (1, 64)), 4)) for _ in range(count)]


def near(code, distance, seed=0):
    places = np.random.default_rng(seed).choice(64, distance, replace=False)
    changed = symbols(code).astype(int)
    changed[0, places] = (changed[0, places] + 1) % 4
    return code_to_bytes(pack(changed, 4))


@pytest.mark.parametrize("distances", [(0, 64), (20, 21), (48, 3), (64, 0)])
@pytest.mark.parametrize("side", [0, 1])
def test_one_side_sees_the_same_for_any_other_code_and_probe(side, distances):
    for seed, (code, other) in enumerate(zip(codes(8, 1), codes(8, 2), strict=True)):
        world = World.random(code, near(code, distances[0], seed))
        *views, match = world.run()
        change = (as_a_sees_it, as_b_sees_it)[side]
        *other_views, other_match = change(world, other, near(other, distances[1], seed)).run()
        assert other_views[side] == views[side]
        assert other_views[1 - side] != views[1 - side]
        assert (match, other_match) == tuple(distance <= TERMS.threshold for distance in distances)


def test_b_sees_the_same_in_a_lite_comparison():
    """B receives nothing; of code and probe it has shares that fit any others."""
    code, other = codes(2, 3)
    share_a, share_b = share_code(code, TERMS.encoding)
    assert xor(share_b, xor(other, share_b)) == other  # the share of A that makes it the other code
    assert xor(share_a, share_b) == code


def test_a_sees_the_difference_and_no_code_in_a_lite_comparison():
    """What A sees for code and probe fits any two with that difference."""
    code, other = codes(2, 4)
    probe = near(code, 11)
    moved = xor(xor(code, probe), other)
    code_a, probe_a = (share_code(each, TERMS.encoding)[0] for each in (code, probe))
    seen = []
    for t, p in ((code, probe), (other, moved)):
        stored_a, stored_b = Stored(code_a, b"", b""), Stored(xor(t, code_a), b"", b"")
        message = difference_share(stored_b, xor(p, probe_a), TERMS)
        own = difference_share(stored_a, probe_a, TERMS)
        seen.append((code_a, probe_a, message, differing_positions(own, message, TERMS)))
    assert seen[0] == seen[1]
    assert seen[0][-1] == 11


def bits_of(view):
    return np.unpackbits(np.frombuffer(b"".join(view), np.uint8))


@pytest.fixture(scope="module")
def many_views():
    """Codes, and the views of both sides, of 600 verifications by matching probes."""
    tried = codes(600, 5)
    views = [World.random(code, near(code, 5, seed)).run()[:2] for seed, code in enumerate(tried)]
    return np.stack([symbols(code)[0] for code in tried]), views


@pytest.mark.parametrize("side", [0, 1])
def test_the_bits_of_a_view_are_balanced(side, many_views):
    """Those that are random at all: each is one in half of the runs, and the number of ones is as for fair coins."""
    bits = np.stack([bits_of(views[side]) for views in many_views[1]]).astype(float)
    share = bits.mean(axis=0)
    random = (share > 0) & (share < 1)
    deviation = (share[random] - 0.5) * 2 * np.sqrt(len(bits))
    assert random.sum() > 5000
    assert np.abs(deviation).max() < 6
    assert 0.9 < float((deviation**2).mean()) < 1.1


@pytest.mark.parametrize("side", [0, 1])
def test_an_attack_on_one_side_predicts_no_symbol(side, many_views):
    """A ridge regression from one side's view to the bits of the code, on verifications it was not made with."""
    known, views = many_views
    target = np.concatenate([known & 1, known >> 1], axis=1) * 2.0 - 1
    features = np.stack([bits_of(each[side]) for each in views]) * 2.0 - 1
    assert abs(held_out_correlation(features, target)) < 5 / np.sqrt(200 * target.shape[1])


def test_the_same_attack_on_both_sides_gives_the_code(many_views):
    known, views = many_views
    target = np.concatenate([known & 1, known >> 1], axis=1) * 2.0 - 1
    both = np.stack([np.unpackbits(np.frombuffer(xor(a[0], b[0]), np.uint8)) for a, b in views]) * 2.0 - 1
    assert held_out_correlation(both, target) > 0.95


def held_out_correlation(features, target):
    kernel = features @ features.T
    fitted = np.linalg.solve(kernel[:400, :400] + features.shape[1] * np.eye(400), target[:400])
    predicted = kernel[400:, :400] @ fitted
    return float(np.corrcoef(predicted.ravel(), target[400:].ravel())[0, 1])


def test_both_sides_together_are_the_code():
    code = codes(1, 6)[0]
    world = World.random(code, near(code, 3))
    view_a, view_b, _ = world.run()
    assert xor(view_a[0], view_b[0]) == code
    assert xor(view_a[1], view_b[1]) == world.probe


def test_the_opened_value_is_uniform_at_every_distance():
    """Chi-square of its residue, which addresses the table, over all entries."""
    terms = Terms(10, 2, 4)
    code = bytes(8)
    for distance in (0, 4, 5, 10):
        probe = ((1 << distance) - 1).to_bytes(8, "little")
        counts = np.zeros(terms.entries)
        for _ in range(1100):
            world = World.random(code, probe, terms)
            _, (*_, reply, opening, _), _ = world.run(terms)
            opened = Reply.from_bytes(reply).opening + Opening.from_bytes(opening).opening
            counts[opened % terms.modulus % terms.entries] += 1
        expected = counts.sum() / terms.entries
        assert float(((counts - expected) ** 2 / expected).sum()) < 40  # 10 degrees of freedom: once in 60,000


def test_what_the_capture_side_gets_without_a_match_is_noise():
    """The values differ each time, and from the secret; a side's answers alone do so even for matches."""
    code = codes(1, 7)[0]
    label = record_label("door", "alice", 0)
    assert Session.begin(label, 0).record == Session.begin(label, 0).record
    secret, secret_a, _ = share_secret()
    joined, alone = set(), set()
    for seed in range(40):
        for distance in (30, 3):
            world = World.random(code, near(code, distance, seed))
            world.secret, world.secret_a = secret, secret_a
            view_a, view_b, match = world.run()
            share_a, share_b = (view[-1][-48:-32] for view in (view_a, view_b))
            alone |= {share_a, share_b}
            assert match is (distance == 3)
            if not match:
                joined.add(xor(share_a, share_b))
            else:
                assert xor(share_a, share_b) == secret
    assert len(joined) == 40
    assert len(alone) == 160
    assert secret not in joined | alone


def test_dealer_and_capture_side_together_do_not_learn_the_distance():
    """They know both tables, `S`, and the answers; what keys the entries passes between the servers alone."""
    code = codes(1, 8)[0]
    for distance in (25, 40, 64, 3):
        world = World.random(code, near(code, distance))
        opened = [(d * world.delta + world.mask) % TERMS.modulus for d in range(65)]
        entries = [(world.part_a.entry(each), world.part_b.entry(each)) for each in opened]
        answers = set()
        for _ in range(5):
            world.salts = secrets.token_bytes(16), secrets.token_bytes(16)
            view_a, view_b, match = world.run()
            answer = xor(xor(view_a[-1][-48:-32], view_b[-1][-48:-32]), world.secret)
            assert match is (distance == 3)
            assert match or answer not in {xor(*pair) for pair in entries}
            answers.add(answer)
        assert len(answers) == (1 if distance == 3 else 5)  # the same two entries, another difference each time
