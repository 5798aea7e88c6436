"""Lite and full comparison of a shared code with a shared probe, without a network: arithmetic and messages.

The capture side holds the probe `p`, and sends `p_A` to A and `p_B` to B, shares as those of the code `t`
(`iom.split.shares.share_code`). Each side computes its share of `z = t xor p`, whose bits say where probe and code
differ, and nothing else.

**Lite** (`difference_share`, `differing_positions`): B sends its share of `z` to A, who counts and decides. A learns
`z`, so the distance; B learns nothing; the capture side learns the decision, in which it trusts A.

**Full** (`FullComparisonA`, `FullComparisonB`), with a dealt correlation (`iom.split.correlations`):

- A to B, `Offer`: a fresh correlation, A's salt, and A's bits of `z` under its `a`.
- B to A, `Reply`: B's salt, B's bits of `z` under its `b`, and B's share of `E`.
- A to B, `Opening`: A's share of `E`.
- A and B to the capture side, `ReleaseShare`: the side's table entry, keyed with both salts, under its share of the
  record's secret `S`.

Both sides then know `v = z xor a xor b` and `E = Delta d + R`, which are uniform whatever `z` is; neither learns `z`,
the distance `d`, or the decision. The entries of A and B cancel where `d` is at most the threshold: the capture side
then gets `S`, which it knows by the commitment that both sides give; otherwise it gets 16 uniform bytes. As the salts
are unknown to the dealer, who knows all entries, these bytes do not tell dealer and capture side together either how
far the probe was.

A side that lies:

- Other bits `a_i` or `b_i` flip bits of `z`, which the side cannot see. This is as good as another share of its own.
- A wrong share of `E` is a non-match: A's entry depends on all 64 bits of `E`, and B's table has it for the one right
  `E` of each matching distance only. To hit another one is to guess `Delta`: odds of `N / m`, 2^-53 at 1536 positions,
  for each verification. The outcome says nothing of `d`.
- A changed entry is a non-match; another commitment is an error.

So a side alone makes no match of a non-match, but for guesses that the honest side's rate limit bounds; it can make a
non-match of a match. A side that changes its own share and learns the outcome elsewhere learns one bit an attempt:
whether the code so changed is near enough.
"""

import dataclasses
import hashlib
import hmac
import secrets
import struct
from collections.abc import Callable
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from iom.codes.distances import paired
from iom.codes.packing import code_bytes
from iom.errors import CodeError, PeerError
from iom.split.correlations import DEAL_BYTES, Claimed, CorrelationA, CorrelationB, Terms
from iom.split.shares import COMMITMENT_BYTES, SECRET_BYTES, Random, code_from_bytes, commitment, share_code, xor

NONCE_BYTES = 16
RECORD_BYTES = 32
SALT_BYTES = 16
MAX_MESSAGE = 1 << 22
"""Bytes of the largest message."""
_MAGIC = b"iom-split/1"
_HEADER = struct.Struct(f">{len(_MAGIC)}sB{NONCE_BYTES}s{RECORD_BYTES}sQ")
_RECORD = b"iom/split/record/v1\0"


class StoredShare(Protocol):
    """One side's part of a record: shares of the code and of the secret, and the commitment."""

    @property
    def code(self) -> bytes: ...
    @property
    def secret(self) -> bytes: ...
    @property
    def commitment(self) -> bytes: ...


@dataclasses.dataclass(frozen=True)
class Session:
    """One comparison, as each party knows it; a message of another one is refused.

    A side takes part in a session once: it refuses a nonce of the capture side that it has seen.

    Attributes:
        nonce: 16 bytes that the capture side draws.
        record: Digest of the record's label, and of what else both sides must agree on, 32 bytes.
        epoch: Epoch of the shares; those of different epochs do not combine.
    """

    nonce: bytes
    record: bytes
    epoch: int

    def __post_init__(self) -> None:
        if (len(self.nonce), len(self.record)) != (NONCE_BYTES, RECORD_BYTES) or not 0 <= self.epoch < 1 << 63:
            raise PeerError(
                f"session: expected a nonce of {NONCE_BYTES} bytes, a digest of {RECORD_BYTES} and an epoch, received "
                f"{len(self.nonce)}, {len(self.record)} and {self.epoch}"
            )

    @classmethod
    def begin(cls, label: bytes, epoch: int) -> "Session":
        """A new session for the record of `iom.split.shares.record_label`."""
        return cls(secrets.token_bytes(NONCE_BYTES), hashlib.sha256(_RECORD + label).digest(), epoch)


@dataclasses.dataclass(frozen=True)
class _Message:
    """A message in binary: magic, kind, session; numbers and strings of fixed length, big-endian; bits to the end."""

    session: Session

    kind: ClassVar[int]
    layout: ClassVar[struct.Struct]
    has_bits: ClassVar[bool] = False

    def to_bytes(self) -> bytes:
        """The message as it is sent."""
        values = [getattr(self, field.name) for field in dataclasses.fields(self)[1:]]
        bits = values.pop() if self.has_bits else b""
        session = (self.session.nonce, self.session.record, self.session.epoch)
        return b"".join((_HEADER.pack(_MAGIC, self.kind, *session), self.layout.pack(*values), bits))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote; a `PeerError` for anything else."""
        least = _HEADER.size + cls.layout.size
        most = MAX_MESSAGE if cls.has_bits else least
        if not least <= len(data) <= most:
            raise PeerError(f"{cls.__name__}: expected {least} to {most} bytes, received {len(data)}")
        magic, kind, *session = _HEADER.unpack_from(data)
        if (magic, kind) != (_MAGIC, cls.kind):
            raise PeerError(f"{cls.__name__}: received another message; all parties need one version of iom")
        values: list[Any] = [Session(*session), *cls.layout.unpack_from(data, _HEADER.size)]
        return cls(*values, *([bytes(data[least:])] if cls.has_bits else []))


@dataclasses.dataclass(frozen=True)
class Offer(_Message):
    """A to B: the correlation that A took, A's salt, and A's bits of `z` under its bits `a`."""

    kind, layout, has_bits = 1, struct.Struct(f">{DEAL_BYTES}sQ{SALT_BYTES}s"), True
    deal: bytes
    index: int
    salt: bytes = dataclasses.field(repr=False)
    bits: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Reply(_Message):
    """B to A: B's share of `E`, B's salt, and B's bits of `z` under its bits `b`."""

    kind, layout, has_bits = 2, struct.Struct(f">QQ{SALT_BYTES}s"), True
    index: int
    opening: int
    salt: bytes = dataclasses.field(repr=False)
    bits: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Opening(_Message):
    """A to B: A's share of `E`."""

    kind, layout = 3, struct.Struct(">QQ")
    index: int
    opening: int


@dataclasses.dataclass(frozen=True)
class ReleaseShare(_Message):
    """A side to the capture side: the side's table entry under its share of `S`, and the commitment to `S`."""

    kind, layout = 4, struct.Struct(f">{SECRET_BYTES}s{COMMITMENT_BYTES}s")
    share: bytes = dataclasses.field(repr=False)
    commitment: bytes


def difference_share(stored: StoredShare, probe: bytes, terms: Terms) -> bytes:
    """A side's share of `z`; B's is its message to A in a lite comparison. `probe` is the side's share of the probe."""
    if len(probe) != code_bytes(terms.encoding):
        raise PeerError(
            f"share of a probe {terms.encoding}: expected {code_bytes(terms.encoding)} bytes, received {len(probe)}"
        )
    return xor(stored.code, probe)


def differing_positions(own: bytes, theirs: bytes, terms: Terms) -> int:
    """Distance of probe and code from both shares of `z`; what A computes in a lite comparison."""
    try:
        shares = [code_from_bytes(share, terms.encoding) for share in (own, theirs)]
    except CodeError as error:
        raise PeerError(f"share of the difference: {error}") from None
    return int(paired(*shares, threads=1)[0])


class FullComparisonA:
    """A's side of one full comparison: `offer`, then `finish`, once each.

    `probe` is A's share of the probe; `take` gives a correlation that was never used (`CorrelationsA.take`); `random`
    gives uniform bytes.
    """

    def __init__(
        self,
        terms: Terms,
        session: Session,
        stored: StoredShare,
        probe: bytes,
        take: Callable[[], Claimed[CorrelationA]],
        *,
        random: Random = secrets.token_bytes,
    ) -> None:
        self._side = _Side(terms, session, stored, probe)
        self._salt = random(SALT_BYTES)
        self._take = take

    def offer(self) -> Offer:
        """The message to B."""
        side = self._side
        claimed = side.mask(self._take)
        return Offer(side.session, claimed.deal, claimed.index, self._salt, side.masked.tobytes())

    def finish(self, reply: Reply) -> tuple[Opening, ReleaseShare]:
        """The message to B and that to the capture side."""
        side = self._side
        side.check(reply)
        own = side.opening(reply.bits)
        release = side.release(own, reply.opening, self._salt + reply.salt)
        return Opening(side.session, reply.index, own), release


class FullComparisonB:
    """B's side of one full comparison: `reply`, then `finish`, once each.

    `probe` is B's share of the probe; `claim` gives the correlation of a deal and index, if it was never used
    (`CorrelationsB.claim`); `random` gives uniform bytes.
    """

    def __init__(
        self,
        terms: Terms,
        session: Session,
        stored: StoredShare,
        probe: bytes,
        claim: Callable[[bytes, int], Claimed[CorrelationB]],
        *,
        random: Random = secrets.token_bytes,
    ) -> None:
        self._side = _Side(terms, session, stored, probe)
        self._salt, self._salts = random(SALT_BYTES), b""
        self._claim = claim
        self._own = 0

    def reply(self, offer: Offer) -> Reply:
        """The message to A; an offer of another session or size claims nothing."""
        side = self._side
        _check_session(offer, side.session)
        side.check_bits(offer.bits)
        side.mask(lambda: self._claim(offer.deal, offer.index))
        self._own, self._salts = side.opening(offer.bits), offer.salt + self._salt
        return Reply(side.session, offer.index, self._own, self._salt, side.masked.tobytes())

    def finish(self, opening: Opening) -> ReleaseShare:
        """The message to the capture side."""
        self._side.check(opening)
        return self._side.release(self._own, opening.opening, self._salts)


def open_match(a: ReleaseShare, b: ReleaseShare, session: Session) -> bytes | None:
    """The record's secret if probe and code match, else `None`: the capture side's decision in a full comparison.

    Raises:
        PeerError: An answer belongs to another session, or the sides give different commitments.
    """
    for answer in (a, b):
        _check_session(answer, session)
    if not hmac.compare_digest(a.commitment, b.commitment):
        raise PeerError(
            "the servers hold different commitments for the record: one was restored from a backup, or lies; "
            "revoke the subject and enrol anew"
        )
    secret = xor(a.share, b.share)
    return secret if hmac.compare_digest(commitment(secret), a.commitment) else None


def compare_lite(terms: Terms, stored: tuple[StoredShare, StoredShare], code: bytes) -> bool:
    """A whole lite comparison in one process: whether the probe `code` matches."""
    probes = share_code(code, terms.encoding)
    own, message = (difference_share(*each, terms) for each in zip(stored, probes, strict=True))
    return differing_positions(own, message, terms) <= terms.threshold


def compare_full(
    terms: Terms,
    session: Session,
    stored: tuple[StoredShare, StoredShare],
    code: bytes,
    take: Callable[[], Claimed[CorrelationA]],
    claim: Callable[[bytes, int], Claimed[CorrelationB]],
) -> bytes | None:
    """A whole full comparison in one process, over messages in bytes: the record's secret on a match, else `None`."""
    probes = share_code(code, terms.encoding)
    a = FullComparisonA(terms, session, stored[0], probes[0], take)
    b = FullComparisonB(terms, session, stored[1], probes[1], claim)
    reply = b.reply(Offer.from_bytes(a.offer().to_bytes()))
    opening, from_a = a.finish(Reply.from_bytes(reply.to_bytes()))
    from_b = b.finish(Opening.from_bytes(opening.to_bytes()))
    return open_match(ReleaseShare.from_bytes(from_a.to_bytes()), ReleaseShare.from_bytes(from_b.to_bytes()), session)


class _Side:
    """What both sides of a full comparison do alike, once and in order: `mask`, `check`."""

    def __init__(self, terms: Terms, session: Session, stored: StoredShare, probe: bytes) -> None:
        self.session = session
        self._terms, self._stored = terms, stored
        self._bits = _expanded(difference_share(stored, probe, terms), terms)
        self._step = 0
        self._claimed: Claimed[Any] | None = None
        self.masked: NDArray[np.uint8] = np.empty(0, np.uint8)

    def mask(self, claim: Callable[[], Claimed[Any]]) -> Claimed[Any]:
        """Mask this side's bits of `z` with those of a correlation, which is returned."""
        self._once(0)
        self._claimed = claim()
        self.masked = self._bits ^ self._claimed.correlation.bits
        return self._claimed

    def check(self, message: Reply | Opening) -> None:
        """That the other side's message is of this comparison and correlation."""
        _check_session(message, self.session)
        expected = self._claimed.index if self._claimed else -1
        if message.index != expected:
            raise PeerError(f"{type(message).__name__}: expected correlation {expected}, received {message.index}")
        self._once(1)

    def check_bits(self, theirs: bytes) -> None:
        """That the other side sent as many bits."""
        if len(theirs) != len(self._bits):
            raise PeerError(f"masked bits: expected {len(self._bits)} bytes, received {len(theirs)}")

    def opening(self, theirs: bytes) -> int:
        """This side's share of `E`, from both sides' masked bits."""
        self.check_bits(theirs)
        terms, shares = self._terms, self._correlation.shares
        public = np.unpackbits(self.masked ^ np.frombuffer(theirs, np.uint8), bitorder="little").view(bool)
        # d = sum of v_i + w_i - 2 v_i w_i, in which v is public, and w is shared as Delta w.
        products, delta, mask = shares[:-2], int(shares[-2]), int(shares[-1])
        differing = int(np.count_nonzero(public)) * delta + _sum(products) - 2 * _sum(products[public])
        return (differing * pow(terms.weight, -1, terms.modulus) + mask) % terms.modulus

    def release(self, own: int, theirs: int, salts: bytes) -> ReleaseShare:
        """This side's answer to the capture side."""
        entry = self._correlation.entry((own + theirs) % self._terms.modulus)
        entry = hmac.digest(salts, b"iom/split/entry/v1\0" + entry, "sha256")[:SECRET_BYTES]
        return ReleaseShare(self.session, xor(entry, self._stored.secret), self._stored.commitment)

    @property
    def _correlation(self) -> CorrelationA | CorrelationB:
        assert self._claimed is not None  # noqa: S101  (`mask` comes first)
        part: CorrelationA | CorrelationB = self._claimed.correlation
        return part

    def _once(self, step: int) -> None:
        if self._step != step:
            raise PeerError("a comparison takes each message once, and in order; verify again")
        self._step += 1


def _expanded(share: bytes, terms: Terms) -> NDArray[np.uint8]:
    """XOR of every non-empty subset of the planes (a simplex code), `(bits / 8,)`; linear, so each side has a share."""
    subsets = np.zeros((1, len(share) // (8 * terms.planes)), np.uint64)
    for plane in np.frombuffer(share, "<u8").reshape(terms.planes, -1):
        subsets = np.concatenate([subsets, subsets ^ plane])
    return np.frombuffer(subsets[1:].astype("<u8", copy=False).tobytes(), np.uint8)


def _sum(numbers: NDArray[np.uint64]) -> int:
    """Sum of 64-bit numbers without overflow."""
    low = int((numbers & np.uint64(0xFFFFFFFF)).sum(dtype=np.uint64))
    return low + (int((numbers >> np.uint64(32)).sum(dtype=np.uint64)) << 32)


def _check_session(message: _Message, session: Session) -> None:
    if message.session.epoch != session.epoch:
        raise PeerError(
            f"{type(message).__name__}: expected shares of epoch {session.epoch}, received epoch "
            f"{message.session.epoch}: one server was restored from a backup, or a refresh is under way"
        )
    if message.session != session:
        raise PeerError(f"{type(message).__name__}: it belongs to another comparison; verify again")
