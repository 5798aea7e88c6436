"""Any order of verbs, against a plain dictionary."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from iom.errors import EnrolmentError, RevokedError
from tests.gallery.conftest import KINDS, Place, faces

PEOPLE = faces(6, seed=3)
NAMES = st.sampled_from(["a", "b", "c", "d"])
FACES = st.integers(0, 5)


class Machine(RuleBasedStateMachine):
    """`model` maps an enrolled subject to the faces in its slots, `gone` holds the revoked."""

    @initialize(kind=st.sampled_from(KINDS))
    def start(self, kind):
        self.folder = Path(tempfile.mkdtemp())
        self.place = Place(self.folder)
        self.gallery = self.place.open(create=True)
        self.gallery.create_application("door", key_mode=kind[0], masked=kind[1])
        self.common = kind[0] == "application"
        self.model, self.gone, self.fresh = {}, set(), set()

    @rule(name=NAMES, face=FACES, another=st.booleans())
    def enroll(self, name, face, another):
        if name in self.model and not another:
            with pytest.raises(EnrolmentError):
                self.gallery.enroll("door", name, PEOPLE[face])
            return
        (added,) = self.gallery.enroll("door", name, PEOPLE[face], another=another)
        slots = self.model.setdefault(name, {})
        assert added.slot == min(set(range(9)) - set(slots))
        slots[added.slot] = face
        self.fresh.add(name)

    @rule(name=NAMES, slot=st.none() | st.integers(0, 1))
    def revoke(self, name, slot):
        slots = self.model.get(name, {})
        doomed = set(slots) if slot is None else {slot} & set(slots)
        if not doomed:
            with pytest.raises(EnrolmentError):
                self.gallery.revoke("door", name, slot=slot)
            return
        assert self.gallery.revoke("door", name, slot=slot) == len(doomed)
        self.gone.add(name)
        for each in doomed:
            del slots[each]
        if not slots:
            del self.model[name]
            self.fresh.discard(name)

    @rule(name=NAMES, face=FACES)
    def renew(self, name, face):
        refused = name not in self.model and name not in self.gone
        refused |= self.common and name in self.fresh
        if refused:
            with pytest.raises(EnrolmentError):
                self.gallery.renew("door", name, PEOPLE[face])
            return
        (added,) = self.gallery.renew("door", name, PEOPLE[face])
        if name in self.model:
            self.gone.add(name)
        self.model[name] = {added.slot: face}
        self.fresh.add(name)

    @precondition(lambda self: self.common)
    @rule()
    def rotate(self):
        self.gallery.rotate("door")
        self.fresh.clear()

    @rule()
    def open_again(self):
        self.place.close()
        self.gallery = self.place.open()

    @rule()
    def check(self):
        assert self.gallery.check() == []

    @rule(name=NAMES, face=FACES)
    def verify(self, name, face):
        if name not in self.model:
            expected = RevokedError if name in self.gone else EnrolmentError
            with pytest.raises(expected):
                self.gallery.verify("door", name, PEOPLE[face])
            return
        decision = self.gallery.verify("door", name, PEOPLE[face])
        assert (decision.distance == 0) == (face in self.model[name].values())

    @rule(face=FACES)
    def identify(self, face):
        found = self.gallery.identify("door", PEOPLE[face], threshold=0)
        expected = {name for name, slots in self.model.items() if face in slots.values()}
        assert {candidate.subject_id for candidate in found} == expected
        ranked = self.gallery.identify("door", PEOPLE[face], top=9, closed=True)
        assert sorted(candidate.subject_id for candidate in ranked) == sorted(self.model)

    @invariant()
    def counts_agree(self):
        if hasattr(self, "model"):
            counts = self.gallery.stats()["door"][1]
            assert counts.subjects == len(self.model)
            assert counts.references == sum(map(len, self.model.values()))

    def teardown(self):
        if hasattr(self, "place"):
            self.place.close()
            shutil.rmtree(self.folder)


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)
