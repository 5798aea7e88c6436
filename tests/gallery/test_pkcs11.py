"""Key stores whose master is in a PKCS #11 token, here SoftHSM's, which keeps it to itself."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from iom._peers import PeerClient, TlsFiles, make_certificates
from iom.errors import StoreError
from iom.gallery.gallery import Gallery
from iom.gallery.key_store import open_key_store
from iom.service.mutual_tls import PeerApp, peers_in_background
from tests.gallery.conftest import FakeHasher, again, faces

LIBRARY = next(
    (
        path
        for path in (
            Path(os.environ.get("IOM_TEST_PKCS11", "/usr/lib/softhsm/libsofthsm2.so")),
            Path("/usr/lib64/pkcs11/libsofthsm2.so"),
            Path("/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so"),
        )
        if path.is_file()
    ),
    None,
)
pytestmark = [
    pytest.mark.skipif(
        LIBRARY is None or shutil.which("softhsm2-util") is None,
        reason="SoftHSM2 is not installed (Debian: softhsm2; Fedora: softhsm; see make hsm)",
    )
]
pkcs11 = pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed: pip install 'iom[pkcs11]'")


IS_WORKER = "PYTEST_XDIST_WORKER" in os.environ
alone = pytest.mark.skipif(IS_WORKER, reason="runs in a process of its own, see test_with_a_library_that_is_fresh")


@pytest.mark.skipif(not IS_WORKER, reason="the tests below run in this process")
def test_with_a_library_that_is_fresh():
    """A library is loaded once in a process, and what else a worker of the suite has loaded comes before it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout


def prepared(folder, *labels):
    """A folder with tokens; the path of its configuration."""
    (folder / "tokens").mkdir()
    (folder / "pin").write_text("5678\n")
    configuration = folder / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n")
    for label in labels:
        subprocess.run(
            ["softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "12345678", "--pin", "5678"],
            env={**os.environ, "SOFTHSM2_CONF": str(configuration)},
            check=True,
            capture_output=True,
        )
    return configuration


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """A library is loaded once in a process, with the tokens that it finds then."""
    folder = tmp_path_factory.mktemp("hsm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(prepared(folder, "iom", "other", "twin", "twin")))
        yield folder


def url(tokens, file, *, token="iom", label="master", more=""):
    pin = f"&pin-source=file:{tokens}/pin"
    return f"pkcs11:token={token};object={label}?module-path={LIBRARY}{pin}&file={file}{more}"


@alone
def test_a_token_opens_after_tensorflow_was_loaded(tokens, tmp_path):
    program = """
import sys
import tensorflow
from iom.gallery.key_store import open_key_store
with open_key_store(sys.argv[1], create=True) as keys:
    print(keys.identity())
"""
    place = url(tokens, tmp_path / "k", label="after")
    done = subprocess.run([sys.executable, "-c", program, place], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with open_key_store(place) as keys:
        assert keys.identity() == done.stdout.strip()


@alone
def test_a_gallery_lives_on_a_token(tokens, tmp_path):
    place, person = url(tokens, tmp_path / "k", label="gallery"), faces(1)[0]
    with Gallery.open(tmp_path / "g.db", keys=place, hasher=FakeHasher(), create=True) as gallery:
        gallery.create_application("door", masked=True)
        gallery.enroll("a", person, application="door")
        identity = gallery.keys.identity()
    with Gallery.open(tmp_path / "g.db", keys=place, hasher=FakeHasher()) as gallery:
        assert gallery.keys.identity() == identity
        assert gallery.check() == []
        assert gallery.verify("a", again(person), application="door").match
        assert not gallery.verify("a", faces(1, seed=9)[0], application="door").match
    other = url(tokens, tmp_path / "k", token="other", label="gallery")
    with pytest.raises(StoreError, match="the token has no secret 'gallery'"):
        open_key_store(other)
    open_key_store(url(tokens, tmp_path / "k2", token="other", label="gallery"), create=True).close()
    with pytest.raises(StoreError, match="belongs to other keys"):
        open_key_store(other)


@alone
def test_the_master_does_not_leave_the_token(tokens, tmp_path):
    with open_key_store(url(tokens, tmp_path / "k"), create=True) as keys:
        secret = vars(keys)["_source"]._key
        with pytest.raises(pkcs11.AttributeSensitive):
            secret[pkcs11.Attribute.VALUE]
        assert secret[pkcs11.Attribute.EXTRACTABLE] is False
        assert secret[pkcs11.Attribute.NEVER_EXTRACTABLE] is True
        assert secret[pkcs11.Attribute.ALWAYS_SENSITIVE] is True
        for attribute in (pkcs11.Attribute.EXTRACTABLE, pkcs11.Attribute.SENSITIVE):
            with pytest.raises(pkcs11.PKCS11Error):
                secret[attribute] = not secret[attribute]
        session = secret.session
        wrapping = session.generate_key(pkcs11.KeyType.AES, 256, capabilities=pkcs11.MechanismFlag.WRAP)
        with pytest.raises(pkcs11.PKCS11Error):
            wrapping.wrap_key(secret)
        assert "5678" not in repr([vars(keys)["_source"], *vars(keys).values()])


@alone
def test_a_secret_that_can_be_taken_out_is_refused(tokens, tmp_path):
    with open_key_store(url(tokens, tmp_path / "k"), create=True) as keys:
        session = vars(keys)["_source"]._session
        loose = {pkcs11.Attribute.EXTRACTABLE: True, pkcs11.Attribute.SENSITIVE: False, pkcs11.Attribute.PRIVATE: True}
        mechanisms = pkcs11.MechanismFlag.SIGN
        session.generate_key(pkcs11.KeyType.GENERIC_SECRET, 256, label="loose", capabilities=mechanisms, template=loose)
        with pytest.raises(StoreError, match="can be taken out of the token"):
            open_key_store(url(tokens, tmp_path / "k2", label="loose"), create=True)
        assert not (tmp_path / "k2").exists()


@alone
def test_two_key_stores_of_one_token_in_a_process(tokens, tmp_path):
    first = open_key_store(url(tokens, tmp_path / "k"), create=True)
    second = open_key_store(url(tokens, tmp_path / "k"))
    expected = first.record_key("door", "a", 1)
    first.close()  # which logs the process out
    assert second.record_key("door", "a", 1) == expected
    vars(second)["_source"]._session.close()  # as by the token
    assert second.record_key("door", "a", 1) == expected
    second.close()
    second.close()
    with pytest.raises(StoreError, match="closed"):
        second.record_key("door", "a", 1)


@alone
def test_tls_works_beside_a_token(tokens, tmp_path):
    """A token's library leaves errors of OpenSSL behind, which a TLS connection of the same thread must not meet."""
    make_certificates(tmp_path / "c", ["keys", "door"])
    files = [
        TlsFiles(*(tmp_path / "c" / f for f in (f"{n}.pem", f"{n}.key", "authority.pem"))) for n in ("keys", "door")
    ]
    with (
        peers_in_background(PeerApp({"echo": lambda caller, body: body}), files[0]) as address,
        PeerClient(address, **vars(files[1])) as client,
    ):
        assert client.call("echo", b"a") == b"a"  # the connection is kept
        with open_key_store(url(tokens, tmp_path / "k"), create=True) as keys:
            for number in range(3):
                assert client.call("echo", b"a") == b"a"
                keys.record_keys("door", [("a", number)])


@alone
def test_mistakes_are_told(tokens, tmp_path, monkeypatch):
    def problem(place):
        with pytest.raises(StoreError) as caught:
            open_key_store(place, create=True)
        assert list(tmp_path.iterdir()) == []
        return str(caught.value)

    good = url(tokens, tmp_path / "k")
    assert "expected one such token, found 0" in problem(url(tokens, tmp_path / "k", token="none"))
    assert "expected one such token, found 2" in problem(url(tokens, tmp_path / "k", token="twin"))
    assert "cannot load the library" in problem(good.replace(str(LIBRARY), "/no/library.so"))
    assert "cannot read the PIN" in problem(good.replace("/pin&", "/no-pin&"))
    assert "expected pin-source=" in problem(re.sub("pin-source=file:", "pin-source=web:", good))
    monkeypatch.delenv("IOM_PKCS11_PIN", raising=False)
    assert "environment variable IOM_PKCS11_PIN" in problem(re.sub("&pin-source=[^&]*", "", good))
    for path in (
        "token=iom",
        "object=master",
        "token=iom;object=a;object=b",
        "tokn=iom;object=a",
        "slot-id=0;object=a",
    ):
        assert "expected pkcs11:" in problem(good.replace("token=iom;object=master", path))
    monkeypatch.setenv("IOM_PKCS11_PIN", "5678")
    open_key_store(re.sub("&pin-source=[^&]*", "", good), create=True).close()


CHANGES = """
import shutil, sys
from iom.errors import StoreError
from iom.gallery.key_store import open_key_store
from pathlib import Path
url, folder = sys.argv[1], Path(sys.argv[2])

def told(action):
    try:
        action()
    except StoreError as error:
        print(error)
    else:
        print("no error")

(folder / "pin").write_text("0000")
told(lambda: open_key_store(url))
(folder / "pin").write_text("5678")
keys = open_key_store(url)
keys.record_key("door", "a", 1)
shutil.rmtree(folder / "tokens")
(folder / "tokens").mkdir()
told(lambda: keys.record_key("door", "a", 1))
told(lambda: open_key_store(url))
keys.close()
"""


@alone
def test_a_wrong_pin_and_a_token_that_is_taken_out(tmp_path, root):
    configuration = prepared(tmp_path, "iom")
    environment = {**os.environ, "SOFTHSM2_CONF": str(configuration)}
    place = url(tmp_path, tmp_path / "k")
    make = (
        "import sys; from iom.gallery.key_store import open_key_store; open_key_store(sys.argv[1], create=True).close()"
    )
    for code in (make, CHANGES):
        done = subprocess.run(
            [sys.executable, "-c", code, place, str(tmp_path)],
            env=environment,
            cwd=root,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, "")
    wrong, removed, gone = done.stdout.splitlines()
    assert wrong.endswith("the PIN is wrong")
    assert "5678" not in done.stdout
    assert "found 0; is it plugged in?" in removed
    assert "found 0; is it plugged in?" in gone
