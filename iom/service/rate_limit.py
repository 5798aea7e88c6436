"""Rate limits: token buckets for requests, and a back-off for failed comparisons.

A yes-or-no answer tells little, but thousands of them lead from any face that matches once to the embedding behind a
template (hill climbing). So failed comparisons take from budgets that fill again with time: one for each token and
subject, one for each subject, one for the searches of a token. A match takes nothing and gives nothing back, because an
attacker who climbs matches every second time. The wait is bounded, and failures under other tokens never keep a token
from its own attempt in `OWN_SECONDS`, so that they cannot lock a subject out.
"""

import contextlib
import dataclasses
import ipaddress
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator

from fastapi import HTTPException

from iom.gallery.gallery import Gallery
from iom.service.settings import ServiceSettings

MAX_CALLERS = 100_000
HOUR = 3600.0
BURST_SHARE = 1 / 6
"""Share of an hour's failures that may happen at once."""
ALL_TOKENS = 3
"""Failures of a subject over all tokens, per failure that one token may have."""
SEARCHES = 10
"""Searches of a token without a match, per failure that it may have with one subject."""
OWN_SECONDS = HOUR * BURST_SHARE
"""Time after which a token has one attempt for a subject, whatever other tokens did."""


def client_network(address: str) -> str:
    """The network that counts as one client: an IPv4 address, or 64 bits of an IPv6 address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        return str(found.ipv4_mapped or found.exploded[:19])
    return address


class RateLimit:
    """Token buckets, one per caller, of `burst` calls that refill at `rate` calls a second.

    Beyond `max_callers` the least recently seen is forgotten.
    """

    def __init__(
        self, rate: float, burst: int, *, clock: Callable[[], float] = time.monotonic, max_callers: int = 10_000
    ) -> None:
        self._max_callers = max_callers
        self._rate, self._burst, self._clock = rate, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait(self, caller: str, *, take: int = 1) -> float:
        """Seconds until `caller` may call again; 0 lets it pass and counts. `take=0` only asks."""
        with self._lock:
            now = self._clock()
            left, then = self._buckets.pop(caller, (float(self._burst), now))
            left = min(float(self._burst), left + (now - then) * self._rate)
            missing = 1 - left
            self._buckets[caller] = (left - take if missing <= 0 else left, now)
            while len(self._buckets) > self._max_callers:
                self._buckets.popitem(last=False)
            return max(0.0, missing / self._rate)

    def give_back(self, caller: str) -> None:
        """Undo one counted call."""
        with self._lock:
            if caller not in self._buckets:
                return
            left, then = self._buckets[caller]
            self._buckets[caller] = (min(float(self._burst), left + 1), then)


@dataclasses.dataclass
class Attempt:
    """A comparison in progress; `is_match` is its outcome, `None` where there was none, which costs nothing."""

    is_match: bool | None = None


class Backoff:
    """Budgets of failed comparisons, in the memory of this process.

    The audit log gets a `backoff` entry at a caller's first refusal after an admitted attempt.
    """

    def __init__(
        self, gallery: Gallery, settings: ServiceSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        def budget(times: float) -> RateLimit:
            failures = times * settings.failures
            at_once = max(1, round(failures * BURST_SHARE))
            return RateLimit(failures / HOUR, at_once, clock=clock, max_callers=MAX_CALLERS)

        self._gallery = gallery
        self._by_token, self._by_subject = budget(1), budget(ALL_TOKENS)
        self._searches = budget(SEARCHES)
        self._own = RateLimit(1 / OWN_SECONDS, 1, clock=clock, max_callers=MAX_CALLERS)
        self._refused: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def verification(self, token: str, application: str, subject: str) -> Iterator[Attempt]:
        """An attempt to verify a subject; the caller sets `is_match` of it. 429 after too many failures."""
        caller, subject_wide = f"{token}\0{application}\0{subject}", f"{application}\0{subject}"
        with self._lock:  # both budgets or none
            wait, taken = self._by_token.wait(caller), [(self._by_token, caller)]
            if not wait:
                wait = self._by_subject.wait(subject_wide)
                if not wait:
                    taken.append((self._by_subject, subject_wide))
                elif own := self._own.wait(caller):
                    self._by_token.give_back(caller)
                    wait = min(wait, own)
                else:
                    wait = 0.0
                    taken.append((self._own, caller))
        if wait:
            self._refuse(caller, wait, application, subject)
        yield from self._outcome(caller, taken)

    @contextlib.contextmanager
    def search(self, token: str, application: str) -> Iterator[Attempt]:
        """An attempt to identify a face in an application; otherwise as `verification`."""
        caller = f"{token}\0{application}"
        wait = self._searches.wait(caller)
        if wait:
            self._refuse(caller, wait, application)
        yield from self._outcome(caller, [(self._searches, caller)])

    def _outcome(self, caller: str, taken: list[tuple[RateLimit, str]]) -> Iterator[Attempt]:
        with self._lock:
            self._refused.pop(caller, None)
        attempt = Attempt()
        try:
            yield attempt
        finally:
            if attempt.is_match is not False:
                for budget, name in taken:
                    budget.give_back(name)

    def _refuse(self, caller: str, wait: float, application: str, *subjects: str) -> None:
        with self._lock:
            is_new = caller not in self._refused
            self._refused[caller] = None
            if len(self._refused) > MAX_CALLERS:
                self._refused.popitem(last=False)
        if is_new:
            self._gallery.log("backoff", application, subjects)
        raise HTTPException(429, "Too many failed attempts; retry later", headers={"Retry-After": str(math.ceil(wait))})
