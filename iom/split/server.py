"""Share server: one of the two servers of a split gallery.

A verification is two calls of the capture side. `begin`, at both servers at once, gives it the records of a subject and
this server's halves of their keys. `verify`, at A, brings A its shares of the probe and, sealed for B, those of B; A
talks to B, and answers. What a server learns, and of whom, is in docs/split.md.
"""

import contextlib
import dataclasses
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from iom.codes.packing import encoding_shape
from iom.errors import (
    BusyError,
    ConfigError,
    CorrelationError,
    EnrolmentError,
    IomError,
    NotEnrolledError,
    NotPermittedError,
    PeerError,
    RevokedError,
    StoreError,
)
from iom.gallery.models import Application, Tombstone
from iom.service.rate_limit import Attempt as Comparison
from iom.service.rate_limit import Backoff
from iom.split.comparison import (
    FullComparisonA,
    FullComparisonB,
    Offer,
    Opening,
    Reply,
    Session,
    difference_share,
    differing_positions,
)
from iom.split.correlations import CorrelationsA, CorrelationsB, Terms
from iom.split.messages import (
    PAGE,
    Answers,
    AskDifferences,
    AskHalfKeys,
    AskRefresh,
    AskReplies,
    AskRevoked,
    AskSettings,
    AskStates,
    AskSubject,
    Begin,
    Begun,
    Commit,
    Connection,
    Count,
    Decision,
    Differences,
    Done,
    FromB,
    HalfKeys,
    Message,
    Openings,
    Prepare,
    Probes,
    ProbeShare,
    RecordEpoch,
    RecordKey,
    RecordState,
    RefreshAnswer,
    RefreshCommit,
    Refreshed,
    RefreshPage,
    ReleaseShares,
    Replies,
    RevokedRecord,
    RevokedRecords,
    Settings,
    States,
    SubjectRecords,
    Verify,
    ask,
    different_settings,
    seal,
    session_of,
    unseal,
)
from iom.split.share_store import (
    PREPARED_SECONDS,
    REFRESH_BEGUN,
    REFRESH_JOINED,
    Change,
    Prepared,
    Share,
    ShareStore,
    settings_digest,
)
from iom.split.shares import RefreshExchange, code_from_bytes, record_label, refresh_mask

LOG = logging.getLogger("iom.split")
SIDES = ("a", "b")
ATTEMPT_SECONDS = 30.0
"""Time between the calls of one verification."""
MAX_ATTEMPTS = 4096
AUDIT_SECONDS = 0.1
"""Time in which events of verifications are collected for one write to the audit log."""
SYNCHRONIZE_SECONDS = 60.0
MAX_PAGES = 2000
"""Pages of tombstones that are read at once; the next time goes on behind them."""
_VERIFIER = frozenset({"settings", "begin", "verify"})
_ENROLLER = _VERIFIER | {"enrolled", "half-keys", "prepare", "commit"}
SHARE_ROLES: dict[str, frozenset[str]] = {
    "verifier": _VERIFIER,
    "enroller": _ENROLLER,
    "admin": _ENROLLER | {"revoke", "refresh"},
    "peer": frozenset({"differences", "offers", "openings", "states", "revoked", "refresh-page", "refresh-commit"}),
}
"""Role of a caller to the actions that it may ask for; `peer` is the other server."""
CALLER_ROLES = tuple(name for name in SHARE_ROLES if name != "peer")


@dataclasses.dataclass
class _Attempt:
    """A verification between its two calls."""

    caller: str
    application: Application
    subject: str
    shares: Mapping[int, Share] = dataclasses.field(repr=False)
    session: bytes = dataclasses.field(repr=False)
    comparison: Comparison
    budget: contextlib.ExitStack
    expires: float
    comparisons: Sequence[FullComparisonB] = ()

    def terms(self) -> Terms:
        """What is compared, and the threshold."""
        return Terms(*encoding_shape(self.application.encoding), self.application.threshold)


class ShareServer(contextlib.AbstractContextManager["ShareServer"]):
    """The actions of one share server; threads may share it.

    Args:
        shares: Its store.
        side: `a` or `b`.
        role_of: Role of a caller, by the name in its certificate; `None` for one that has none.
        peer: Connection to the other server.
        correlations: This server's part of what `iom deal` made, for the full protocol; without it the lite one.
        failures: Attempts to verify one subject by one caller per hour, see `Backoff`. A server that does not learn the
            outcome counts every attempt.
        clock: Seconds.
    """

    def __init__(
        self,
        shares: ShareStore,
        side: str,
        role_of: Callable[[str], str | None],
        peer: Connection,
        *,
        correlations: CorrelationsA | CorrelationsB | None = None,
        failures: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if side not in SIDES:
            raise ConfigError(f"side: expected a or b, received {side!r}")
        self.shares, self.side, self.other = shares, side, SIDES[side == "a"]
        self.protocol = "lite" if correlations is None else "full"
        self._role_of, self._peer, self._clock, self._correlations = role_of, peer, clock, correlations
        self._attempts: OrderedDict[bytes, _Attempt] = OrderedDict()
        self._lock = threading.Lock()
        self._audit = _Audit(shares)
        self._backoff = Backoff(failures, self._audit.add, clock=clock)
        self._refused: set[str] = set()
        self._positions: dict[str, int] = {}
        self._refreshing = threading.RLock()
        self.handlers: dict[str, Callable[[str, bytes], bytes]] = {
            name: self._handler(name, kind, function)  # type: ignore[arg-type]
            for name, kind, function in (
                ("settings", AskSettings, self._settings),
                ("begin", Begin, self._begin),
                ("verify", Verify, self._verify),
                ("differences", AskDifferences, self._differences),
                ("offers", AskReplies, self._replies),
                ("openings", Openings, self._answer),
                ("enrolled", AskSubject, self._enrolled),
                ("half-keys", AskHalfKeys, self._half_keys),
                ("prepare", Prepare, self._prepare),
                ("commit", Commit, self._commit),
                ("revoke", AskSubject, self._revoke),
                ("states", AskStates, self._states),
                ("revoked", AskRevoked, self._revoked),
                ("refresh", AskRefresh, self._refresh),
                ("refresh-page", RefreshPage, self._join_refresh),
                ("refresh-commit", RefreshCommit, self._commit_refresh),
            )
        }

    def admit(self, caller: str, action: str) -> None:
        """Refuse a caller whose role lacks an action; its first refusal since an answer is written to the audit log.

        Raises:
            NotPermittedError: The role lacks the action, or the caller has none.
        """
        if action in SHARE_ROLES.get(self._role_of(caller) or "", ()):
            self._refused.discard(caller)
            return
        if caller not in self._refused:  # refusals must not fill the log
            self._refused.add(caller)
            self._audit.add(f"refused {action} {caller}", "")
        raise NotPermittedError(f"the caller {caller} may not ask for {action}")

    def synchronize(self) -> int:
        """Settle prepared transactions and learn revocations of the other server; the number of changed records."""
        changed = 0
        for application in self.shares.store.applications():
            name = application.name
            changed += self._learn_revoked(name) + self._settle(name, self.shares.prepared(name))
        return changed

    def close(self) -> None:
        """Write what is left for the audit log; a second call does nothing."""
        self._audit.close()
        with self._lock:
            attempts, self._attempts = self._attempts, OrderedDict()
        for each in attempts.values():
            each.budget.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _handler(
        self, name: str, kind: type[Message], function: Callable[[str, Message], Message]
    ) -> Callable[[str, bytes], bytes]:
        def handle(caller: str, body: bytes) -> bytes:
            self.admit(caller, name)
            return function(caller, kind.from_bytes(body)).to_bytes()

        return handle

    def _application(self, name: str, digest: bytes | None = None) -> Application:
        """An application, whose settings must be those of the other server."""
        found = self.shares.application(name)
        if digest is not None and digest != settings_digest(found):
            raise different_settings(name)
        return found

    def _settings(self, caller: str, message: AskSettings) -> Settings:
        found = self._application(message.application)
        return Settings(
            side=self.side,
            encoding=found.encoding,
            model=found.model,
            threshold=found.threshold,
            protocol=self.protocol,
            digest=settings_digest(found),
        )

    def _begin(self, caller: str, message: Begin) -> Begun:
        name, subject = message.application, message.subject
        application = self._application(name)
        self._settle(name, self.shares.prepared(name, subject_id=subject))
        shares = self.shares.shares(name, subject)
        with contextlib.ExitStack() as budget:
            comparison = budget.enter_context(self._backoff.verification(caller, name, subject))
            comparison.is_match = False  # until it is known
            attempt = _Attempt(
                caller,
                application,
                subject,
                {each.record: each for each in shares},
                secrets.token_bytes(32),
                comparison,
                budget.pop_all(),
                self._clock() + ATTEMPT_SECONDS,
            )
        self._keep(message.attempt, attempt)
        self._audit.add(f"verify {caller}", name, [subject])
        halves = self.shares.half_keys(name, subject, [each.record for each in shares])
        keys = [
            RecordKey(record=each.record, epoch=each.epoch, half_key=half)
            for each, half in zip(shares, halves, strict=True)
        ]
        return Begun(digest=settings_digest(application), session=attempt.session, records=keys)

    def _keep(self, number: bytes, attempt: _Attempt) -> None:
        with self._lock:
            gone = [self._attempts.popitem(last=False)[1] for _ in range(len(self._attempts) - MAX_ATTEMPTS + 1)]
            while self._attempts and next(iter(self._attempts.values())).expires <= self._clock():
                gone.append(self._attempts.popitem(last=False)[1])
            is_new = number not in self._attempts
            if is_new:
                self._attempts[number] = attempt
        for each in gone if is_new else [*gone, attempt]:
            each.budget.close()
        if not is_new:
            raise PeerError("the number of the attempt was used before; try again")

    def _popped(self, number: bytes) -> _Attempt:
        """An attempt, which is used once."""
        with self._lock:
            attempt = self._attempts.pop(number, None)
        if attempt is None:
            raise PeerError("there is no such attempt: it was used before, or took too long; try again")
        if attempt.expires <= self._clock():
            attempt.budget.close()
            raise PeerError("the attempt took too long; try again")
        return attempt

    def _mine(self, attempt: _Attempt, records: Sequence[RecordEpoch]) -> list[Share]:
        """Shares of the records that A and B compare, none of which was revoked since the attempt began."""
        revoked = self.shares.keys.revoked(attempt.application.name)
        found = []
        for each in records:
            share = attempt.shares.get(each.record)
            if share is None or each.record in revoked:
                raise RevokedError("a record of the attempt was revoked, or is another subject's")
            if share.epoch != each.epoch:
                raise PeerError("the shares of the two servers are of different epochs; try again")
            found.append(share)
        if len({each.record for each in records}) != len(records):
            raise PeerError("a record occurs twice in an attempt")
        return found

    def _verify(self, caller: str, message: Verify) -> Decision | Answers:
        if self.side != "a":
            raise PeerError("a verification is asked for at server A")
        attempt = self._popped(message.attempt)
        with attempt.budget:
            if attempt.caller != caller:
                raise NotPermittedError("the attempt is another caller's")
            if any(each.record not in attempt.shares for each in message.probes):
                raise PeerError("a record of the probe is none of the attempt")
            records = [
                RecordEpoch(record=each.record, epoch=attempt.shares[each.record].epoch) for each in message.probes
            ]
            shares = self._mine(attempt, records)
            probes = _probes(shares, message.probes)
            if self.protocol == "full":
                return self._compare_full(attempt, message, records, shares, probes)
            return self._compare_lite(attempt, message, records, shares, probes)

    def _compare_lite(
        self,
        attempt: _Attempt,
        message: Verify,
        records: list[RecordEpoch],
        shares: Sequence[Share],
        probes: Sequence[bytes],
    ) -> Decision:
        terms = attempt.terms()
        mine = [difference_share(*pair, terms) for pair in zip(shares, probes, strict=True)]
        question = AskDifferences(
            attempt=message.attempt, digest=settings_digest(attempt.application), records=records, for_b=message.for_b
        )
        theirs = ask(self._peer, self.other, "differences", question, Differences).shares
        if len(theirs) != len(mine):
            raise PeerError("share server b: expected one difference for each record")
        match = any(differing_positions(*pair, terms) <= terms.threshold for pair in zip(mine, theirs, strict=True))
        attempt.comparison.is_match = match
        outcome = "match" if match else "no match"
        self._audit.add(f"{outcome} {attempt.caller}", attempt.application.name, [attempt.subject])
        return Decision(match=match)

    def _compare_full(
        self,
        attempt: _Attempt,
        message: Verify,
        records: list[RecordEpoch],
        shares: Sequence[Share],
        probes: Sequence[bytes],
    ) -> Answers:
        digest, dealt = settings_digest(attempt.application), self._dealt(attempt)
        if not isinstance(dealt, CorrelationsA):
            raise StoreError("expected the correlations of side A; see --correlations")
        take = dealt.take
        comparisons = [
            FullComparisonA(attempt.terms(), self._session(message.attempt, attempt, record, digest), *pair, take)
            for record, pair in zip(records, zip(shares, probes, strict=True), strict=True)
        ]
        question = AskReplies(
            attempt=message.attempt,
            digest=digest,
            records=records,
            for_b=message.for_b,
            offers=[each.offer().to_bytes() for each in comparisons],
        )
        try:
            replies = ask(self._peer, self.other, "offers", question, Replies).replies
        except CorrelationError as error:
            dealt.skip_to(error.mark)  # what B used before a crash
            raise
        if len(replies) != len(comparisons):
            raise PeerError("share server b: expected one reply for each record")
        done = [each.finish(Reply.from_bytes(reply)) for each, reply in zip(comparisons, replies, strict=True)]
        openings = Openings(attempt=message.attempt, openings=[opening.to_bytes() for opening, _ in done])
        sealed = ask(self._peer, self.other, "openings", openings, FromB).sealed
        answers = [answer.to_bytes() for _, answer in done]
        return Answers(shares=answers, from_b=sealed, releases=[each.sealed for each in shares])

    def _differences(self, caller: str, message: AskDifferences) -> Differences:
        if self.protocol != "lite":
            raise NotPermittedError("this server compares by the full protocol only")
        attempt = self._popped(message.attempt)
        with attempt.budget:
            shares, probes = self._asked(attempt, message)
            terms = attempt.terms()
            return Differences(shares=[difference_share(*pair, terms) for pair in zip(shares, probes, strict=True)])

    def _replies(self, caller: str, message: AskReplies) -> Replies:
        attempt = self._popped(message.attempt)
        with contextlib.ExitStack() as budget:
            budget.push(attempt.budget)
            if attempt.comparisons:
                raise PeerError("an attempt is asked about once; verify again")
            dealt = self._dealt(attempt)
            if not isinstance(dealt, CorrelationsB):
                raise StoreError("expected the correlations of side B; see --correlations")
            shares, probes = self._asked(attempt, message)
            if len(message.offers) != len(shares):
                raise PeerError("expected one offer for each record")
            attempt.comparisons = [
                FullComparisonB(
                    attempt.terms(), self._session(message.attempt, attempt, record, message.digest), *pair, dealt.claim
                )
                for record, pair in zip(message.records, zip(shares, probes, strict=True), strict=True)
            ]
            pairs = zip(attempt.comparisons, message.offers, strict=True)
            replies = [each.reply(Offer.from_bytes(offer)).to_bytes() for each, offer in pairs]
            self._keep(message.attempt, attempt)
            budget.pop_all()
            return Replies(replies=replies)

    def _answer(self, caller: str, message: Openings) -> FromB:
        attempt = self._popped(message.attempt)
        with attempt.budget:
            if not attempt.comparisons or len(message.openings) != len(attempt.comparisons):
                raise PeerError("expected one opening for each offer of the attempt")
            pairs = zip(attempt.comparisons, message.openings, strict=True)
            shares = [each.finish(Opening.from_bytes(opening)).to_bytes() for each, opening in pairs]
            content = ReleaseShares(shares=shares).to_bytes()
            return FromB(sealed=seal(attempt.session, b"answer", message.attempt, content))

    def _asked(self, attempt: _Attempt, message: AskDifferences | AskReplies) -> tuple[list[Share], list[bytes]]:
        """B's shares of the records that A asks about, and of the probe that the capture side sealed."""
        if message.digest != settings_digest(attempt.application):
            raise different_settings(attempt.application.name)
        shares = self._mine(attempt, message.records)
        probes = Probes.from_bytes(unseal(attempt.session, b"probes", message.attempt, message.for_b)).probes
        return shares, _probes(shares, probes)

    def _session(self, number: bytes, attempt: _Attempt, record: RecordEpoch, digest: bytes) -> Session:
        return session_of(number, attempt.application.name, attempt.subject, record, digest)

    def _dealt(self, attempt: _Attempt) -> CorrelationsA | CorrelationsB:
        """The correlations, if they were dealt for what is compared."""
        if self._correlations is None:
            raise NotPermittedError("this server has no correlations: it compares by the lite protocol only")
        if self._correlations.terms != attempt.terms():
            raise EnrolmentError(
                f"application {attempt.application.name}: the correlations were dealt for another code or threshold "
                f"({self._correlations.terms}): deal anew for both servers (iom deal)"
            )
        return self._correlations

    def _enrolled(self, caller: str, message: AskSubject) -> SubjectRecords:
        name, subject = message.application, message.subject
        self._application(name)
        self._settle(name, self.shares.prepared(name, subject_id=subject))
        try:
            found = self.shares.references(subject, application=name)
        except (NotEnrolledError, RevokedError) as error:
            return SubjectRecords(records=[], was_revoked=isinstance(error, RevokedError))
        return SubjectRecords(records=[each.record for each in found], was_revoked=False)

    def _half_keys(self, caller: str, message: AskHalfKeys) -> HalfKeys:
        """Half-keys of records that do not exist yet."""
        application = self._application(message.application)
        if any(state.name != "unknown" for state in self.shares.states(application.name, message.records)):
            raise EnrolmentError("a record number was used before; enrol again")
        halves = self.shares.half_keys(application.name, message.subject, message.records)
        return HalfKeys(digest=settings_digest(application), half_keys=halves)

    def _prepare(self, caller: str, message: Prepare) -> Done:
        application = self._application(message.application, message.digest)
        shares = [Share(each.record, each.code, each.secret, each.commitment, each.sealed) for each in message.shares]
        for each in shares:
            code_from_bytes(each.code, application.encoding)
        self.shares.prepare(
            application.name,
            message.transaction,
            message.subject,
            shares,
            replaces=message.replaces,
            another=message.another,
            allow_revoked=message.allow_revoked,
        )
        return Done()

    def _commit(self, caller: str, message: Commit) -> Done:
        self._application(message.application)
        self.shares.commit(message.application, message.transaction, message.records)
        return Done()

    def _revoke(self, caller: str, message: AskSubject) -> Count:
        name = message.application
        self._application(name)
        self._settle(name, self.shares.prepared(name, subject_id=message.subject))
        count = self.shares.revoke(message.subject, application=name)
        return Count(count=count)

    def _states(self, caller: str, message: AskStates) -> States:
        if message.abandon:
            self.shares.drop(message.application, message.records)
        found = self.shares.states(message.application, message.records)
        return States(states=[RecordState(name=each.name, epoch=each.epoch) for each in found])

    def _revoked(self, caller: str, message: AskRevoked) -> RevokedRecords:
        found, position = self.shares.revoked_since(message.application, message.position, PAGE)
        records = [RevokedRecord(subject=each.subject_id, record=each.record, epoch=each.epoch) for each in found]
        return RevokedRecords(records=records, position=position)

    def _learn_revoked(self, application: str) -> int:
        position, count = self._positions.get(application, 0), 0
        for _ in range(MAX_PAGES):  # a server that lies has endless ones
            question = AskRevoked(application=application, position=position)
            answer = ask(self._peer, self.other, "revoked", question, RevokedRecords)
            if not answer.records or answer.position <= position:
                break
            gone = [Tombstone(each.subject, each.record, each.epoch) for each in answer.records]
            count += self.shares.learn_revoked(application, gone)
            position = self._positions[application] = answer.position
        return count

    def _settle(self, application: str, prepared: Sequence[Prepared]) -> int:
        """Commit prepared transactions that the other server has committed, and drop those that neither will commit.

        A transaction that is still young, or whose other server cannot be reached, is left as it is.
        """
        transactions: dict[int, list[Prepared]] = {}
        for each in prepared:
            transactions.setdefault(each.transaction, []).append(each)
        changed = 0
        for number, group in transactions.items():
            is_ours = group[0].kind == REFRESH_BEGUN
            if is_ours and not self._refreshing.acquire(blocking=False):
                continue  # it is under way
            try:
                with contextlib.suppress(PeerError):
                    changed += self._settle_one(application, number, group)
            finally:
                if is_ours:
                    self._refreshing.release()
        return changed

    def _settle_one(self, application: str, number: int, group: Sequence[Prepared]) -> int:
        records = [each.reference.record for each in group]
        # The server that began a refresh commits first. It has not, and is not about to.
        is_over = group[0].made + PREPARED_SECONDS <= time.time() or group[0].kind == REFRESH_BEGUN
        states: list[RecordState] = []
        for start in range(0, len(records), PAGE):
            page = records[start : start + PAGE]
            question = AskStates(application=application, records=page, abandon=is_over)
            states += ask(self._peer, self.other, "states", question, States).states
        if len(states) != len(records):
            raise PeerError(f"share server {self.other}: expected one state for each record")
        pairs = list(zip(group, states, strict=True))
        if any(state.name == "valid" and state.epoch >= each.reference.epoch for each, state in pairs):
            self.shares.commit(application, number, records, decided=True)
        elif is_over or all(state.name == "revoked" for state in states):
            self.shares.drop(application, records)
        else:
            return 0
        return len(records)

    def _refresh(self, caller: str, message: AskRefresh) -> Refreshed:
        """Refresh the next page of records: prepared there, prepared and committed here, committed there."""
        name = message.application
        application = self._application(name)
        if not self._refreshing.acquire(blocking=False):
            raise BusyError("a refresh is under way on this server; try again when it is done")
        try:
            self._settle(name, [each for each in self.shares.prepared(name) if each.kind == REFRESH_BEGUN])
            found = self.shares.store.scan(name, after=message.after, limit=PAGE)
            if not found:
                return Refreshed(count=0, last=-1)
            valid = self.shares.valid(name, [each.record for each in found])
            count = self._refresh_page(application, {each.record: each.epoch for each in valid}) if valid else 0
            return Refreshed(count=count, last=found[-1].record)
        finally:
            self._refreshing.release()

    def _refresh_page(self, application: Application, epochs: Mapping[int, int]) -> int:
        name, number, exchange = application.name, secrets.randbits(62), RefreshExchange(self.side.upper())
        page = RefreshPage(
            application=name,
            transaction=number,
            digest=settings_digest(application),
            public=exchange.public,
            records=[RecordEpoch(record=record, epoch=epoch) for record, epoch in epochs.items()],
        )
        answer = ask(self._peer, self.other, "refresh-page", page, RefreshAnswer)
        both = [each for each in page.records if each.record in answer.records]
        # The other server begins no refresh meanwhile, and what it had begun of these it has not committed.
        self.shares.end_joined(name, {each.record: each.epoch for each in both})
        if both:
            changes = self._changes(application, both, exchange.joint_secret(answer.public))
            self.shares.prepare_refresh(name, number, changes, kind=REFRESH_BEGUN)
            self.shares.commit(name, number, [each.record for each in both])
            targets = [RecordEpoch(record=each.record, epoch=each.epoch + 1) for each in both]
            commit = RefreshCommit(application=name, transaction=number, records=targets)
            ask(self._peer, self.other, "refresh-commit", commit, Done)
        return len(both)

    def _join_refresh(self, caller: str, message: RefreshPage) -> RefreshAnswer:
        application = self._application(message.application, message.digest)
        if not self._refreshing.acquire(blocking=False):
            raise BusyError("a refresh is under way that this server began; try again when it is done")
        try:
            return self._prepare_joined(application, message)
        finally:
            self._refreshing.release()

    def _prepare_joined(self, application: Application, message: RefreshPage) -> RefreshAnswer:
        name = application.name
        epochs = {each.record: each.epoch for each in message.records}
        self.shares.end_joined(name, epochs)
        busy = {each.reference.record for each in self.shares.prepared(name)}
        valid = [each for each in self.shares.valid(name, list(epochs)) if each.epoch == epochs[each.record]]
        both = [RecordEpoch(record=each.record, epoch=each.epoch) for each in valid if each.record not in busy]
        exchange = RefreshExchange(self.side.upper())
        changes = self._changes(application, both, exchange.joint_secret(message.public))
        if changes:
            self.shares.prepare_refresh(name, message.transaction, changes, kind=REFRESH_JOINED)
        return RefreshAnswer(public=exchange.public, records=[each.record for each in both])

    def _changes(self, application: Application, records: Sequence[RecordEpoch], joint: bytes) -> list[Change]:
        changes = []
        for each in records:
            label, epoch = record_label(application.name, "", each.record), each.epoch + 1
            changes.append(Change(each.record, epoch, *refresh_mask(joint, application.encoding, label, epoch)))
        return changes

    def _commit_refresh(self, caller: str, message: RefreshCommit) -> Done:
        name, records = message.application, [each.record for each in message.records]
        self._application(name)
        if any(each.transaction == message.transaction for each in self.shares.prepared(name)):
            self.shares.commit(name, message.transaction, records, decided=True)
        for each, state in zip(message.records, self.shares.states(name, records), strict=True):
            if state.name != "revoked" and state.epoch < each.epoch:
                raise EnrolmentError("the refresh is not prepared on this server; its subjects must be renewed")
        return Done()


def open_correlations(path: Path, side: str) -> CorrelationsA | CorrelationsB:
    """One side's file of `iom deal`."""
    return CorrelationsA(path) if side == "a" else CorrelationsB(path)


class _Audit:
    """Events of verifications, written together by a thread of their own.

    Without a place to write to, further verifications are refused.
    """

    def __init__(self, shares: ShareStore) -> None:
        self._shares = shares
        self._events: dict[tuple[str, str], list[str]] = {}
        self._problem: IomError | str | None = None
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def add(self, action: str, application: str, subjects: Sequence[str] = ()) -> None:
        """Add an event; a `StoreError` where the last ones could not be written."""
        with self._lock:
            if self._problem is not None:
                raise StoreError(f"the audit log cannot be written, so nothing is verified: {self._problem}")
            self._events.setdefault((action, application), []).extend(subjects)

    def close(self) -> None:
        """Write what is left."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(AUDIT_SECONDS):
            self._write()
        self._write()

    def _write(self) -> None:
        with self._lock:
            events, self._events = self._events, {}
        try:
            self._shares.log_events(events)
            self._problem = None
        except Exception as error:  # whatever it is, nothing more is verified without a log
            problem = error if isinstance(error, IomError) else type(error).__name__
            LOG.error("the audit log cannot be written: %s", problem)
            with self._lock:
                self._problem = problem
                for key, subjects in events.items():
                    self._events[key] = [*subjects, *self._events.get(key, [])]


def _probes(shares: Sequence[Share], probes: Sequence[ProbeShare]) -> list[bytes]:
    """Shares of the probe in the order of the records."""
    of_record = {each.record: each.share for each in probes}
    if len(of_record) != len(probes) or of_record.keys() != {each.record for each in shares}:
        raise PeerError("expected one share of a probe for each record of the attempt")
    return [of_record[each.record] for each in shares]
