"""A gallery of format 2 that the first edition wrote (`tests/fixtures/edition_1`) is opened unchanged.

In its application `default` anna has two references and cora one; bert, and a reference of cora, were revoked.
In `masked` anna has one and bert was revoked.
"""

import contextlib
import shutil
import sqlite3

import numpy as np
import pytest

import iom
from iom.errors import RevokedError
from iom.gallery.gallery import Gallery
from iom.gallery.stores.sqlite import SqliteStore
from iom.models.face_hasher import ForwardingFaceHasher


@pytest.fixture
def folder(tmp_path, root):
    shutil.copytree(root / "tests/fixtures/edition_1/gallery", tmp_path / "gallery")
    return tmp_path / "gallery"


class Exported(ForwardingFaceHasher):
    """The hasher of the gallery as an artefact, which makes the same codes and is a model of its own."""

    fingerprint = "a3c4fd474829c4b49d57c279225c72743509ef8ac84ed3a293fa7167b2257a2f"


def opened(folder, hasher=None):
    text = (folder / "passphrase").read_text().strip()
    return Gallery.open(
        f"sqlite:///{folder}/gallery.db", keys=f"file:{folder}/gallery.keys", hasher=hasher, passphrase=lambda: text
    )


def test_its_subjects_are_verified_and_its_revoked_ones_refused(folder, root):
    fixtures = root / "tests/fixtures/edition_1"
    with np.load(fixtures / "expected.npz") as expected:
        embeddings = expected["embeddings"]
    hasher = Exported(iom.load(fixtures / "artifact/stage2.onnx", opens_embedder=False))
    with opened(folder, hasher) as gallery:
        assert gallery.check() == []
        counts = {name: stats for name, (_, stats) in gallery.stats().items()}
        assert (counts["default"].references, counts["default"].revoked) == (3, 3)
        assert (counts["masked"].references, counts["masked"].revoked) == (1, 1)
        for name in counts:
            assert gallery.verify("anna", embeddings[0], application=name).distance == 0
            (found,) = gallery.identify(embeddings[0], application=name, threshold=0)
            assert found.subject_id == "anna"
            with pytest.raises(RevokedError):
                gallery.verify("bert", embeddings[1], application=name)
        (new,) = gallery.enroll("dora", embeddings[1])
        assert new.record > 5
        assert gallery.check() == []


def layout(path):
    """Columns, keys and indexes of every table."""
    with contextlib.closing(sqlite3.connect(path)) as connection:

        def rows(query, *values):
            return connection.execute(query, values).fetchall()

        found = {"header": (rows("PRAGMA user_version"), rows("PRAGMA application_id"))}
        for name, kind, text in rows("SELECT name, type, sql FROM sqlite_master WHERE sql IS NOT NULL"):
            if kind == "table":
                columns = rows("SELECT name, type, pk, dflt_value FROM pragma_table_info(?)", name)
                keys = rows('SELECT "from", "table" FROM pragma_foreign_key_list(?)', name)
                found[name] = (columns, keys, "WITHOUT ROWID" in text)
            else:
                found[name] = rows("SELECT name FROM pragma_index_info(?)", name)
        return found


def test_a_new_store_has_the_same_tables(folder, tmp_path):
    SqliteStore(tmp_path / "new.db", create=True).close()
    assert layout(tmp_path / "new.db") == layout(folder / "gallery.db")
