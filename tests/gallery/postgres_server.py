"""A PostgreSQL server of the tests' own, in a temporary folder; and a wire that can be cut."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest

PASSWORD = "s3cret-pa55"  # no word of it may be in an error


def find_binaries():
    """Folder of `initdb`, newest version first; `None` where PostgreSQL is not installed."""
    found = shutil.which("initdb")
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    folders += [Path(found).parent] if found else []
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


class Server:
    """Initialised and started once; `stop`, `kill` and `start` again as a test wants it."""

    def __init__(self, binaries):
        self.binaries = binaries
        self.folder = Path(tempfile.mkdtemp(prefix="iom-postgres-"))
        self.user = None
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            try:
                self.user = pwd.getpwnam("postgres")
            except KeyError:
                pytest.skip("needs a user 'postgres' to run a PostgreSQL server as root")
            os.chown(self.folder, self.user.pw_uid, self.user.pw_gid)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        if self.user:
            os.chown(secret, self.user.pw_uid, self.user.pw_gid)
        self.run("initdb", "-D", "data", "-U", "owner", "-A", "scram-sha-256", "--no-sync",
                 "-E", "UTF8", "--locale=C", "--pwfile=password")  # fmt: skip
        self.start()

    def start(self):
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1"
        self.run("pg_ctl", "-D", "data", "-w", "-l", "log", "-o", options, "start")

    def stop(self, mode="immediate"):
        """`immediate` is a crash: the server recovers from its log at the next start."""
        self.run("pg_ctl", "-D", "data", "-w", "-m", mode, "stop")

    def run(self, program, *arguments):
        as_user = {"user": self.user.pw_uid, "group": self.user.pw_gid} if self.user else {}
        if self.user:
            as_user["extra_groups"] = []
        subprocess.run(
            [self.binaries / program, *arguments], cwd=self.folder, check=True, timeout=60,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **as_user,
        )  # fmt: skip

    def url(self, port=None):
        return f"postgresql://owner:{PASSWORD}@127.0.0.1:{port or self.port}/postgres"

    def remove(self):
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class Wire:
    """A relay to the server that is cut when a word passes.

    That is before the server hears the word, or `after` it, so that only its answer is lost.
    """

    def __init__(self, port):
        self.word, self.after, self.stays_cut = None, False, False
        self._target = port
        self._sockets = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def cut_at(self, word, *, after=False, stays_cut=False):
        self.word, self.after, self.stays_cut = word, after, stays_cut

    def close(self):
        for each in [self._listener, *self._sockets]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _serve(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.stays_cut and self.word is None:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self._target))
            self._sockets += [client, server]
            heard = threading.Event()
            for source, sink, is_client in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._relay, args=(source, sink, is_client, heard), daemon=True).start()

    def _relay(self, source, sink, is_client, heard):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if is_client and self.word and self.word in data:
                    self.word = None
                    heard.set()
                    if self.after:
                        sink.sendall(data)
                        continue  # the answer is dropped below
                    break
                if not is_client and heard.is_set():
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
