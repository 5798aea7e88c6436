"""Rate limits: calls of a caller, and failed comparisons of a subject."""

import contextlib
import dataclasses
import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

from iom.errors import RateLimitError

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

    Beyond `MAX_CALLERS` the least recently seen is forgotten.
    """

    def __init__(self, rate: float, burst: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait(self, caller: str, calls: int = 1) -> float:
        """Seconds until `caller` may make so many calls, at most `burst`; 0 lets them pass and counts them."""
        with self._lock:
            now = self._clock()
            left, then = self._buckets.pop(caller, (float(self._burst), now))
            left = min(float(self._burst), left + (now - then) * self._rate)
            missing = calls - left
            self._buckets[caller] = (left - calls if missing <= 0 else left, now)
            if len(self._buckets) > MAX_CALLERS:
                self._buckets.popitem(last=False)
            return max(0.0, missing / self._rate)

    def give_back(self, caller: str) -> None:
        """Undo one counted call."""
        with self._lock:
            if caller in self._buckets:
                left, then = self._buckets[caller]
                self._buckets[caller] = (min(float(self._burst), left + 1), then)


@dataclasses.dataclass
class Attempt:
    """A comparison in progress; `is_match` is its outcome, `None` where there was none, which costs nothing."""

    is_match: bool | None = None


class Backoff:
    """Budgets of failed comparisons, in the memory of this process.

    A yes-or-no answer tells little, but thousands of them lead from any face that matches once to the embedding behind
    a template (hill climbing). So failed comparisons take from budgets that fill again with time: one for each token
    and subject, one for each subject, one for the searches of a token. A match takes nothing and gives nothing back,
    because an attacker who climbs matches every second time. The wait is bounded, and failures under other tokens never
    keep a token from its own attempt in `OWN_SECONDS`, so that they cannot lock a subject out.

    Args:
        failures: Failed verifications of one subject by one token in an hour, a sixth of them at once.
        log: Called with `backoff`, the application and the subjects at a caller's first refusal after an admitted
            attempt, for an audit log.
        clock: Seconds.
    """

    def __init__(
        self,
        failures: float,
        log: Callable[[str, str, Sequence[str]], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        def budget(times: float) -> RateLimit:
            return RateLimit(times * failures / HOUR, max(1, round(times * failures * BURST_SHARE)), clock=clock)

        self._log = log
        self._by_token, self._by_subject = budget(1), budget(ALL_TOKENS)
        self._searches, self._refusals = budget(SEARCHES), budget(1)
        self._own = RateLimit(1 / OWN_SECONDS, 1, clock=clock)
        self._refused: OrderedDict[str, bool] = OrderedDict()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def verification(self, token: str, application: str, subject: str) -> Iterator[Attempt]:
        """An attempt to verify a subject; the caller sets `is_match` of it.

        Raises:
            RateLimitError: Too many failures.
        """
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
        yield from self._admitted(caller, wait, taken, application, subject)

    def refusal(self, token: str, application: str, subject: str) -> None:
        """Count a request that was refused before anything was compared, such as one of another device.

        Anybody with a token can make such requests about any subject. So they have a budget of their own, which no
        verification takes from: it bounds what a caller is told, and locks no subject out.

        Raises:
            RateLimitError: Too many of them.
        """
        caller = f"{token}\0{application}\0{subject}"
        for _ in self._admitted(f"refusal\0{caller}", self._refusals.wait(caller), [], application, subject):
            pass

    @contextlib.contextmanager
    def search(self, token: str, application: str) -> Iterator[Attempt]:
        """An attempt to identify a face in an application; otherwise as `verification`."""
        caller = f"{token}\0{application}"
        yield from self._admitted(caller, self._searches.wait(caller), [(self._searches, caller)], application)

    def _admitted(
        self, caller: str, wait: float, taken: list[tuple[RateLimit, str]], application: str, *subjects: str
    ) -> Iterator[Attempt]:
        """An attempt, whose budgets are given back unless it fails; a `RateLimitError` where the caller must wait."""
        with self._lock:
            was_refused = self._refused.pop(caller, False)
            if wait:
                self._refused[caller] = True
                if len(self._refused) > MAX_CALLERS:
                    self._refused.popitem(last=False)
        if wait:
            if not was_refused:
                self._log("backoff", application, subjects)
            raise RateLimitError("Too many failed attempts; retry later", retry_after=wait)
        attempt = Attempt()
        try:
            yield attempt
        finally:
            if attempt.is_match is not False:
                for budget, name in taken:
                    budget.give_back(name)
