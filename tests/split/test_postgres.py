"""The split gallery over two servers whose shares are in PostgreSQL."""

import contextlib
import itertools

import pytest

from iom.errors import NotEnrolledError, StoreError
from iom.gallery.stores.base import open_store
from tests.gallery.conftest import again, faces
from tests.gallery.postgres_server import Server, Wire, find_binaries
from tests.split.conftest import Pair
from tests.split.test_gallery import (  # noqa: F401  # again, over PostgreSQL
    test_a_commit_without_an_answer_is_done_on_both,
    test_a_match_and_a_non_match,
    test_a_refresh_after_one_that_the_other_server_began,
    test_a_refresh_that_breaks_off_is_recovered,
    test_a_release,
    test_a_renewal_is_completed_after_a_crash,
    test_a_revocation_by_another_process_within_a_commit,
    test_a_revocation_ends_what_is_prepared,
    test_a_revocation_while_a_renewal_is_settled,
    test_one_server_is_enough_to_revoke,
    test_refresh,
    test_renewal_ends_the_old_template,
    test_revocation,
    test_several_references,
    test_the_audit_log_has_who_verified_whom,
    test_two_refreshes_at_once,
    test_verifications_go_on_after_a_restart,
    test_what_is_committed_on_one_server_is_committed_on_the_other,
    test_what_nobody_committed_is_dropped_after_an_hour,
)

psycopg = pytest.importorskip("psycopg", reason="needs psycopg")
pytestmark = pytest.mark.proof
ALICE, BOB = faces(2)
_numbers = itertools.count()


@pytest.fixture(scope="module")
def server():
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("needs a PostgreSQL server: apt-get install postgresql")
    server = Server(binaries)
    yield server
    server.remove()


class PostgresPair(Pair):
    """Both stores in one PostgreSQL server, each in a schema, over a wire of its own."""

    def __init__(self, folder, protocol, server):
        self.name, self.server = f"split_{next(_numbers)}", server
        self.wires = {side: Wire(server.port) for side in "ab"}
        super().__init__(folder, protocol)

    def store(self, side, *, create):
        return open_store(f"{self.server.url(self.wires[side].port)}?schema={self.name}_{side}", create=create)

    def close(self):
        super().close()
        for wire in self.wires.values():
            wire.close()
        with psycopg.connect(self.server.url(), autocommit=True) as connection:
            for side in "ab":
                connection.execute(f"DROP SCHEMA {self.name}_{side} CASCADE")


@pytest.fixture(params=["lite", "full"])
def pair(request, tmp_path, server):
    made = PostgresPair(tmp_path, request.param, server)
    yield made
    made.close()


def cut_commits(pair, side, *, after):
    """Cut the wire of a share server's store within its next commit."""
    handlers = pair.servers[side].handlers
    commit = handlers["commit"]

    def cut(caller, body):
        handlers["commit"] = commit
        pair.wires[side].cut_at(b"COMMIT\0", after=after)
        return commit(caller, body)

    handlers["commit"] = cut


@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize("call", ["enroll", "renew"])
def test_a_wire_cut_before_a_commit(pair, side, call):
    """It counts on both servers or on none, and is done on both where A, the first one, has done it."""
    if call == "renew":
        pair.gallery.enroll("alice", BOB)
    cut_commits(pair, side, after=False)
    with pytest.raises(StoreError):
        getattr(pair.gallery, call)("alice", ALICE)
    for each in "ab":
        pair.restart(each)
        pair.servers[each].synchronize()
    if side == "b":
        assert pair.gallery.verify("alice", again(ALICE)).match
    elif call == "renew":
        assert not pair.gallery.verify("alice", again(ALICE)).match
        assert pair.gallery.verify("alice", again(BOB)).match
    else:
        with pytest.raises(NotEnrolledError):
            pair.gallery.verify("alice", again(ALICE))
    assert pair.records("a") == pair.records("b")
    assert pair.stores["a"].check() == pair.stores["b"].check() == []


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_commit_whose_answer_is_lost(pair, side):
    pair.gallery.enroll("alice", BOB)
    cut_commits(pair, side, after=True)
    with contextlib.suppress(StoreError):
        pair.gallery.renew("alice", ALICE)
    assert pair.gallery.verify("alice", again(ALICE)).match
    assert not pair.gallery.verify("alice", again(BOB)).match
    assert pair.records("a") == pair.records("b")
    assert pair.stores["a"].check() == pair.stores["b"].check() == []


def test_a_crash_of_the_database(pair, server):
    pair.gallery.enroll("alice", ALICE)
    pair.lines["door", "b"].lost = {"commit"}
    with pytest.raises(Exception, match="it counts when b has talked to a"):
        pair.gallery.renew("alice", BOB)
    server.stop()
    server.start()
    assert pair.gallery.verify("alice", again(BOB)).match  # without a restart of the share servers
    assert pair.records("a") == pair.records("b")
    for side in "ab":
        pair.restart(side)
    assert not pair.gallery.verify("alice", again(ALICE)).match
    assert pair.stores["a"].check() == pair.stores["b"].check() == []
