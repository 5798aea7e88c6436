"""Shards of a search as actors of Ray, on one machine or many."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iom._memory import forbid_core_dumps
from iom.errors import ConfigError, WorkerError
from iom.gallery.key_relay import KeyRelay, Relay
from iom.gallery.key_store import KeyStore
from iom.gallery.models import Shard
from iom.gallery.ray_cluster import LOCAL, address_of, connect, disconnect, error_of_worker
from iom.gallery.sharded_search import SearchShard, SearchUrl, ShardedSearcher, ShardPlace

if TYPE_CHECKING:
    from iom.gallery.stores.base import RecordStore

RELAY_SECONDS = 30.0
"""Time that the rows of a key store on another machine may take."""
_THREADS = 4
"""Requests that a shard works on at once."""


class RayShards:
    """Actors of a class `SearchShard`, spread over the machines of a cluster; `iom.gallery.sharded_search.Shards`.

    One that dies is started anew, and what it was asked is asked again.

    Args:
        url: Where they run.
        place: What they open.

    Raises:
        ConfigError: The cluster cannot be reached, or takes programs of anybody.
        MissingExtraError: Ray is not installed.
    """

    def __init__(self, url: SearchUrl, place: ShardPlace) -> None:
        address = address_of(url.address)
        if address != LOCAL and os.environ.get("RAY_AUTH_MODE") != "token" and os.environ.get("RAY_USE_TLS") != "1":
            raise ConfigError(
                f"search: shards hold keys, and the cluster {address} may run programs of whoever reaches it; start "
                "all of its machines and this program with RAY_AUTH_MODE=token, or with RAY_USE_TLS=1 (docs/ray.md)"
            )
        self._ray: Any = connect(address, "a search on Ray", "ray", otherwise="search without --search")
        self._is_closed = False
        nodes = sum(each["Alive"] for each in self._ray.nodes())
        self._count = url.shards or (2 if address == LOCAL else nodes)
        relay = None
        if nodes > 1:
            here = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                self._ray.get_runtime_context().get_node_id(), soft=False
            )
            relay = self._ray.remote(_Relay).options(
                num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here
            ).remote(place.key_path)  # fmt: skip
        actor = self._ray.remote(_Actor).options(
            num_cpus=0 if address == LOCAL else 1,
            max_restarts=-1,
            max_task_retries=-1,
            max_concurrency=_THREADS,
            scheduling_strategy="SPREAD",
        )
        self._actors = [
            actor.remote(place, Shard(number, self._count), url.passphrase_file, relay) for number in range(self._count)
        ]
        self._relays = [relay] if relay is not None else []

    @property
    def count(self) -> int:
        return self._count

    def ask(self, request: bytes, seconds: float) -> list[bytes]:
        ray, deadline = self._ray, time.monotonic() + seconds
        if self._is_closed:
            raise WorkerError("search: the gallery is closed")
        try:
            asked = [actor.answer.remote(request) for actor in self._actors]
            _, missing = ray.wait(asked, num_returns=len(asked), timeout=seconds)
            if missing:
                for each in missing:
                    ray.cancel(each)
                raise WorkerError(
                    f"search: {len(missing)} of {self._count} shards did not answer within {seconds:.0f} s: they are "
                    "being started or are loading, a machine is lost, or the cluster has no CPU for them (ray status). "
                    "Nothing was answered; try again, or give more time with &seconds=N",
                    timed_out=True,
                )
            return list(ray.get(asked, timeout=max(deadline - time.monotonic(), 1.0)))
        except ray.exceptions.RayError as error:
            raise error_of_worker(error) from None

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            for actor in [*self._actors, *self._relays]:
                self._ray.kill(actor)
            disconnect()


class _Actor(SearchShard):
    """A shard in a process of its own."""

    def __init__(self, place: ShardPlace, shard: Shard, passphrase_file: str, relay: Any) -> None:
        forbid_core_dumps()
        super().__init__(place, shard, passphrase_file, relay=None if relay is None else _asking(relay))


class _Relay(KeyRelay):
    """A relay in a process of its own, on the machine of the head."""

    def __init__(self, path: str) -> None:
        super().__init__(Path(path))


def _asking(actor: Any) -> Relay:
    import ray

    def rows(name: str, values: Sequence[Any]) -> list[Any]:
        try:
            return list(ray.get(actor.rows.remote(name, values), timeout=RELAY_SECONDS))
        except ray.exceptions.GetTimeoutError:
            raise WorkerError("search: the machine of the head does not give the rows of the key store") from None
        except ray.exceptions.RayError as error:
            raise error_of_worker(error) from None

    return rows


def open_searcher(
    search: str, store: "RecordStore", keys: KeyStore, urls: tuple[str | os.PathLike[str], str | os.PathLike[str]]
) -> ShardedSearcher:
    """The searcher of a text as `SearchUrl.parse` takes it, over a record store and a key store, and their URLs."""
    url, place = SearchUrl.parse(search), ShardPlace.of(*urls)
    return ShardedSearcher(store, keys, RayShards(url, place), place.session, seconds=url.seconds)
