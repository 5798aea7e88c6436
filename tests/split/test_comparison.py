"""The lite and the full comparison of shares against the plain one, and sides that lie."""

import contextlib
import dataclasses
import itertools
import secrets

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iom.codes.distances import paired
from iom.codes.packing import pack
from iom.errors import PeerError
from iom.split.comparison import (
    FullComparisonA,
    FullComparisonB,
    Offer,
    Opening,
    ReleaseShare,
    Reply,
    Session,
    compare_full,
    compare_lite,
    difference_share,
    differing_positions,
    open_match,
)
from iom.split.correlations import Claimed, Terms, deal
from iom.split.shares import code_to_bytes, commitment, record_label, share_code, share_secret

SHAPES = [(1536, 2), (512, 8), (192, 4), (65, 3), (127, 5), (1, 2), (2, 2), (64, 256), (63, 7)]
LABEL = record_label("door", "alice", 3)


@dataclasses.dataclass(frozen=True)
class Stored:
    code: bytes
    secret: bytes
    commitment: bytes


class Dealt:
    """A dealer in memory, for one comparison."""

    def __init__(self, terms):
        self.parts = deal(terms)

    def take(self):
        return Claimed(bytes(16), 7, self.parts[0])

    def claim(self, deal_id, index):
        assert (deal_id, index) == (bytes(16), 7)
        return Claimed(bytes(16), 7, self.parts[1])


def stored_shares(code, terms):
    """Both sides' parts of a record, and its secret."""
    secret, *secrets_of_sides = share_secret()
    codes = share_code(code, terms.encoding)
    return tuple(Stored(*each, commitment(secret)) for each in zip(codes, secrets_of_sides, strict=True)), secret


def code_pair(terms, differing, seed=0):
    """Two stored codes that differ in exactly as many positions."""
    random = np.random.default_rng(seed)
    first = random.integers(0, terms.alphabet_size, terms.code_length)
    second = first.copy()
    places = random.choice(terms.code_length, differing, replace=False)
    second[places] = (first[places] + random.integers(1, terms.alphabet_size, differing)) % terms.alphabet_size
    packed = [pack(code[None], terms.alphabet_size) for code in (first, second)]
    assert paired(*packed)[0] == differing
    return [code_to_bytes(each) for each in packed]


def decisions(terms, distance, seed=0):
    """Decision of the lite and of the full comparison."""
    code, probe = code_pair(terms, distance, seed)
    stored, secret = stored_shares(code, terms)
    dealt = Dealt(terms)
    released = compare_full(terms, Session.begin(LABEL, 0), stored, probe, dealt.take, dealt.claim)
    assert released in (None, secret)
    return compare_lite(terms, stored, probe), released is not None


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_decisions_at_the_ends_and_around_the_threshold(shape):
    length = shape[0]
    for threshold in sorted({-1, 0, length // 3, length - 1, length}):
        for distance in {0, threshold, threshold + 1, length} - {-1, length + 1}:
            expected = distance <= threshold
            assert decisions(Terms(*shape, threshold), distance) == (expected, expected), (threshold, distance)


@pytest.mark.parametrize("shape", [(5, 2), (6, 3), (7, 5), (4, 8), (1, 256)], ids=str)
def test_decisions_at_every_distance_and_threshold(shape):
    for threshold, distance in itertools.product(range(-1, shape[0] + 1), range(shape[0] + 1)):
        expected = distance <= threshold
        assert decisions(Terms(*shape, threshold), distance) == (expected, expected), (threshold, distance)


@given(st.data())
def test_lite_and_full_decide_as_the_plain_distance(data):
    length, symbols = data.draw(st.one_of(st.sampled_from(SHAPES), st.tuples(st.integers(1, 200), st.integers(2, 17))))
    terms = Terms(length, symbols, data.draw(st.integers(-1, length)))
    distance = data.draw(st.one_of(st.integers(0, length), st.just(max(terms.threshold, 0))))
    expected = distance <= terms.threshold
    assert decisions(terms, distance, data.draw(st.integers(0, 2**32))) == (expected, expected)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_lite_counts_every_distance(shape):
    terms = Terms(*shape, 0)
    for distance in range(0, shape[0] + 1, max(1, shape[0] // 7)):
        code, probe = code_pair(terms, distance)
        stored, _ = stored_shares(code, terms)
        shares = share_code(probe, terms.encoding)
        own, theirs = (difference_share(*each, terms) for each in zip(stored, shares, strict=True))
        assert differing_positions(own, theirs, terms) == distance


class Run:
    """A full comparison step by step, whose messages a test changes."""

    def __init__(self, terms, distance, seed=0):
        code, probe = code_pair(terms, distance, seed)
        self.terms, (self.stored, self.secret) = terms, stored_shares(code, terms)
        self.session, self.dealt = Session.begin(LABEL, 4), Dealt(terms)
        shares = share_code(probe, terms.encoding)
        self.a = FullComparisonA(terms, self.session, self.stored[0], shares[0], self.dealt.take)
        self.b = FullComparisonB(terms, self.session, self.stored[1], shares[1], self.dealt.claim)

    def outcome(self, offer=None, reply=None, opening=None, from_a=None, from_b=None):
        """Match or not; each argument changes a message on its way."""
        same = dict.fromkeys(range(5), lambda message: message)
        change = [given or same[i] for i, given in enumerate((offer, reply, opening, from_a, from_b))]
        sent = change[1](self.b.reply(change[0](self.a.offer())))
        opened, answer_a = self.a.finish(sent)
        answer_b = self.b.finish(change[2](opened))
        return open_match(change[3](answer_a), change[4](answer_b), self.session) is not None


def flipped(data, bit):
    octets = bytearray(data)
    octets[bit // 8] ^= 1 << bit % 8
    return bytes(octets)


def shifted(message, by, modulus):
    return dataclasses.replace(message, opening=(message.opening + by) % modulus)


def shift_share(run, side, by):
    """A side that lies in the value that it opens, and goes on with its lie."""
    parts = list(run.dealt.parts)
    shares = parts[side].shares.copy()
    shares[-1] = (int(shares[-1]) + by) % run.terms.modulus
    parts[side] = dataclasses.replace(parts[side], shares=shares)
    run.dealt.parts = tuple(parts)
    return run


def flip_bit(run, side, bit):
    """A side that flips one bit of its share of the difference, and goes on with its lie."""
    parts = list(run.dealt.parts)
    bits = np.frombuffer(flipped(parts[side].bits.tobytes(), bit), np.uint8)
    parts[side] = dataclasses.replace(parts[side], bits=bits)
    run.dealt.parts = tuple(parts)
    return run


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize(("shape", "threshold"), [((1536, 2), 212), ((64, 8), 20), ((65, 3), 10)])
def test_a_side_that_shifts_the_opened_value_makes_no_match(shape, threshold, side):
    """Shifts over all residues of the table, of which some would move each distance below the threshold."""
    terms = Terms(*shape, threshold)
    entries, modulus = terms.entries, terms.modulus
    for shift in sorted({*range(1, entries, max(1, entries // 60)), entries - 1, modulus // 2}):
        for distance in (threshold + 1, shape[0] // 2, 0):
            assert not shift_share(Run(terms, distance), side, shift).outcome()
            which = ("opening", "reply")[side]
            assert not Run(terms, distance).outcome(**{which: lambda m, by=shift: shifted(m, by, modulus)})


@pytest.mark.parametrize("side", [0, 1])
def test_the_shift_is_a_match_for_who_knows_delta(side):
    """Control: with both sides' parts of the correlation, a multiple of Delta moves the distance."""
    terms = Terms(64, 2, 10)
    for steps, expected in ((-19, False), (-20, True), (-30, True), (-31, False)):
        run = Run(terms, 30)
        delta = sum(int(part.shares[-2]) for part in run.dealt.parts)
        assert shift_share(run, side, steps * delta).outcome() is expected


@pytest.mark.parametrize("side", [0, 1])
def test_flipped_bits_move_the_distance_by_one_each(side):
    terms = Terms(64, 2, 10)
    for distance, bit in itertools.product((10, 11), range(0, 64, 9)):
        code, probe = code_pair(terms, distance, seed=5)
        differs = (code[bit // 8] ^ probe[bit // 8]) >> bit % 8 & 1
        after = distance - 1 if differs else distance + 1
        assert flip_bit(Run(terms, distance, seed=5), side, bit).outcome() is (after <= 10)


@pytest.mark.parametrize("which", ["offer", "reply"])
def test_bits_that_change_on_the_way_are_a_non_match(which):
    terms = Terms(1536, 2, 212)
    for distance in (0, 212, 213, 700):
        run = Run(terms, distance)
        assert not run.outcome(**{which: lambda m: dataclasses.replace(m, bits=flipped(m.bits, 77))})


@pytest.mark.parametrize("shape", [(64, 8), (40, 5)])
def test_bits_that_are_no_symbols_are_a_non_match(shape):
    """One flipped bit of a simplex code word belongs to no distance."""
    terms = Terms(*shape, shape[0])
    for bit in range(0, terms.bits, 37):
        assert not flip_bit(Run(terms, 9), bit % 2, bit).outcome()


@pytest.mark.parametrize("which", ["offer", "reply"])
def test_another_salt_on_the_way_is_a_non_match(which):
    for distance in (0, 10, 11):
        run = Run(Terms(64, 2, 10), distance)
        assert not run.outcome(**{which: lambda m: dataclasses.replace(m, salt=bytes(16))})


@pytest.mark.parametrize("which", ["from_a", "from_b"])
def test_a_changed_answer_is_a_non_match(which):
    terms = Terms(192, 4, 80)
    for bit in range(0, 128, 11):
        run = Run(terms, 3)
        assert not run.outcome(**{which: lambda m, bit=bit: dataclasses.replace(m, share=flipped(m.share, bit))})
    assert not Run(terms, 100).outcome(**{which: lambda m: dataclasses.replace(m, share=secrets.token_bytes(16))})


@pytest.mark.parametrize("which", ["from_a", "from_b"])
def test_one_side_alone_cannot_choose_the_commitment(which):
    with pytest.raises(PeerError, match="different commitments"):
        Run(Terms(192, 4, 80), 3).outcome(**{which: lambda m: dataclasses.replace(m, commitment=commitment(bytes(16)))})


@pytest.mark.parametrize("which", ["offer", "reply", "opening", "from_a", "from_b"])
def test_messages_of_another_comparison_are_refused(which):
    other = Session.begin(LABEL, 4)
    with pytest.raises(PeerError, match="another comparison"):
        Run(Terms(64, 2, 10), 3).outcome(**{which: lambda m: dataclasses.replace(m, session=other)})


@pytest.mark.parametrize("which", ["offer", "reply", "opening", "from_a", "from_b"])
def test_shares_of_different_epochs_do_not_combine(which):
    def older(message):
        return dataclasses.replace(message, session=dataclasses.replace(message.session, epoch=3))

    with pytest.raises(PeerError, match="epoch 4, received epoch 3"):
        Run(Terms(64, 2, 10), 3).outcome(**{which: older})


@pytest.mark.parametrize("which", ["reply", "opening"])
def test_messages_of_another_correlation_are_refused(which):
    with pytest.raises(PeerError, match="expected correlation 7, received 8"):
        Run(Terms(64, 2, 10), 3).outcome(**{which: lambda m: dataclasses.replace(m, index=8)})


@pytest.mark.parametrize("bits", [b"", bytes(7), bytes(9)])
@pytest.mark.parametrize("which", ["offer", "reply"])
def test_bits_of_another_length_are_refused(which, bits):
    with pytest.raises(PeerError, match=f"expected 8 bytes, received {len(bits)}"):
        Run(Terms(64, 2, 10), 3).outcome(**{which: lambda m: dataclasses.replace(m, bits=bits)})


def test_each_step_is_taken_once():
    run = Run(Terms(64, 2, 10), 3)
    offer = run.a.offer()
    with pytest.raises(PeerError, match="once"):
        run.a.offer()
    reply = run.b.reply(offer)
    with pytest.raises(PeerError, match="once"):
        run.b.reply(offer)
    opening, _ = run.a.finish(reply)
    with pytest.raises(PeerError, match="once"):
        run.a.finish(reply)
    run.b.finish(opening)
    with pytest.raises(PeerError, match="once"):
        run.b.finish(opening)


def test_nothing_is_claimed_for_an_offer_that_does_not_fit():
    run = Run(Terms(64, 2, 10), 3)
    offer = run.a.offer()
    run.dealt.claim = None
    for wrong in (dataclasses.replace(offer, session=Session.begin(LABEL, 4)), dataclasses.replace(offer, bits=b"")):
        with pytest.raises(PeerError):
            run.b.reply(wrong)


def test_a_probe_of_another_shape_is_refused():
    terms = Terms(64, 2, 10)
    stored, _ = stored_shares(bytes(8), terms)
    with pytest.raises(PeerError, match="expected 8 bytes, received 16"):
        difference_share(stored[0], bytes(16), terms)
    with pytest.raises(PeerError, match="share of the difference"):
        differing_positions(bytes(8), bytes(7), terms)


SESSION = Session(bytes(range(16)), bytes(range(32)), 5)
MESSAGES = [
    Offer(SESSION, bytes(16), 9, bytes(16), b"bits"),
    Offer(SESSION, bytes(16), 2**64 - 1, bytes(range(16)), b""),
    Reply(SESSION, 9, 2**64 - 1, bytes(range(16)), b"bits"),
    Opening(SESSION, 9, 17),
    ReleaseShare(SESSION, bytes(16), bytes(32)),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_messages_survive_bytes(message):
    assert type(message).from_bytes(message.to_bytes()) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_malformed_messages_are_refused(message):
    kind, data = type(message), message.to_bytes()
    fixed = len(data) - len(getattr(message, "bits", b""))
    for length in range(fixed):
        with pytest.raises(PeerError, match="bytes, received"):
            kind.from_bytes(data[:length])
    if not kind.has_bits:
        with pytest.raises(PeerError, match="bytes, received"):
            kind.from_bytes(data + b"x")
    for bit in range(8 * 12):
        with pytest.raises(PeerError, match="another message"):
            kind.from_bytes(flipped(data, bit))
    for other in {type(each) for each in MESSAGES} - {kind}:
        with pytest.raises(PeerError):
            other.from_bytes(data)
    with pytest.raises(PeerError, match="bytes, received"):
        kind.from_bytes(data + bytes(1 << 22))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_an_error(data):
    for kind in (Offer, Reply, Opening, ReleaseShare):
        with contextlib.suppress(PeerError):
            assert kind.from_bytes(data).to_bytes() == data


@pytest.mark.parametrize("values", [(b"", bytes(32), 0), (bytes(16), bytes(31), 0), (bytes(16), bytes(32), -1)])
def test_a_session_has_its_sizes(values):
    with pytest.raises(PeerError, match="session: expected"):
        Session(*values)


def test_no_message_shows_its_secrets():
    for message in MESSAGES:
        assert "bits'" not in repr(message)
        assert "share=" not in repr(message)
