"""Rate limit: a bucket for each caller that fills again with time."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

MOST_CALLERS = 10_000


class RateLimit:
    """Token buckets, one a caller; the callers that were not seen for longest are forgotten.

    Args:
        rate: Calls a second in the long run.
        burst: Calls at once.
        clock: Seconds, never going back.
        most_callers: Of which it keeps a bucket.
    """

    def __init__(
        self, rate: float, burst: int, *, clock: Callable[[], float] = time.monotonic, most_callers: int = MOST_CALLERS
    ) -> None:
        self._most = most_callers
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
            while len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
            return max(0.0, missing / self._rate)

    def give_back(self, caller: str) -> None:
        """Undo a call that was counted."""
        with self._lock:
            if caller not in self._buckets:
                return
            left, then = self._buckets[caller]
            self._buckets[caller] = (min(float(self._burst), left + 1), then)
