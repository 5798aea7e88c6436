"""Back-off of failed comparisons: a budget for each token and subject, and for each subject.

An answer of yes or no tells little, but thousands of them lead from any face that matches once to
the embedding behind a template. So failures are counted: a failed comparison takes one from a
budget that fills again with time, and where the budget is empty the next attempt has to wait.

A match takes nothing and gives nothing back: an attacker who climbs matches every second time. The
wait is bounded, and no failures of other tokens can keep a token from its own attempt in
`OWN_SECONDS`, so that the right person is never locked out by them.
"""

import contextlib
import dataclasses
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator

from fastapi import HTTPException

from iom.gallery.gallery import Gallery
from iom.service.rate_limit import RateLimit
from iom.service.settings import ServiceSettings

MOST_CALLERS = 100_000
HOUR = 3600.0
AT_ONCE = 1 / 6
"""Of an hour's failures, the share that a caller has at once."""
ALL_TOKENS = 3
"""Failures of a subject over all tokens, for each that one token has."""
SEARCHES = 10
"""Searches of a token that find nobody, for each failure that it has with one subject."""
OWN_SECONDS = HOUR * AT_ONCE
"""After so long a token has one attempt for a subject, whatever other tokens did."""


@dataclasses.dataclass
class Attempt:
    """A comparison that is being made.

    Attributes:
        is_match: Its outcome; `None` where there was none, which costs nothing.
    """

    is_match: bool | None = None


class Backoff:
    """Counts failed comparisons, and refuses attempts where there were too many.

    The counts are those of this process and gone when it ends.

    Args:
        gallery: Its audit log gets a `backoff` where a caller is refused for the first time since
            an attempt was let through.
        settings: `failures`.
        clock: Seconds, never going back.
    """

    def __init__(
        self, gallery: Gallery, settings: ServiceSettings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        def budget(times: float) -> RateLimit:
            failures = times * settings.failures
            at_once = max(1, round(failures * AT_ONCE))
            return RateLimit(failures / HOUR, at_once, clock=clock, most_callers=MOST_CALLERS)

        self._gallery = gallery
        self._by_token, self._by_subject = budget(1), budget(ALL_TOKENS)
        self._searches = budget(SEARCHES)
        self._own = RateLimit(1 / OWN_SECONDS, 1, clock=clock, most_callers=MOST_CALLERS)
        self._refused: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def verification(self, token: str, application: str, subject: str) -> Iterator[Attempt]:
        """An attempt to verify a subject; its outcome is to be put into what this yields.

        Raises:
            HTTPException: 429, too many attempts failed; `Retry-After` says when to retry.
        """
        caller, everybody = f"{token}\0{application}\0{subject}", f"{application}\0{subject}"
        with self._lock:  # both budgets or none
            wait, taken = self._by_token.wait(caller), [(self._by_token, caller)]
            if not wait:
                wait = self._by_subject.wait(everybody)
                if not wait:
                    taken.append((self._by_subject, everybody))
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
        """An attempt to find somebody in an application; as `verification`."""
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
            if len(self._refused) > MOST_CALLERS:
                self._refused.popitem(last=False)
        if is_new:
            self._gallery.log("backoff", application, subjects)
        raise HTTPException(429, "Too many failed attempts; retry later", headers={"Retry-After": str(math.ceil(wait))})
