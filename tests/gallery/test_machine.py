"""Any order of verbs, against a plain dictionary."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from iom.errors import AlreadyEnrolledError, EnrolmentError, NotEnrolledError, RevokedError
from tests.gallery.conftest import KINDS, UNMASKED, Place, faces

pytestmark = UNMASKED

PEOPLE = faces(6, seed=3)
NAMES = st.sampled_from(["a", "b", "c", "d"])
FACES = st.integers(0, 5)


class Machine(RuleBasedStateMachine):
    """The model.

    `model` maps an enrolled subject to the face and the key epoch in each slot. `burned` maps a
    subject to the newest epoch of all templates it ever lost, and forgets nothing.
    """

    @initialize(kind=st.sampled_from(KINDS))
    def start(self, kind):
        self.folder = Path(tempfile.mkdtemp())
        self.place = Place(self.folder)
        self.gallery = self.place.open(create=True)
        self.gallery.create_application("door", key_mode=kind[0], masked=kind[1])
        self.common = kind[0] == "application"
        self.model, self.burned, self.epoch = {}, {}, 0

    @rule(name=NAMES, face=FACES, another=st.booleans(), allow_revoked=st.booleans())
    def enroll(self, name, face, another, allow_revoked):
        options = {"another": another, "allow_revoked": allow_revoked}
        is_revoked = name in self.burned and name not in self.model
        refused = self.common and self.burned.get(name, -1) >= self.epoch
        refused |= is_revoked and not allow_revoked
        if refused:
            with pytest.raises(RevokedError):
                self.gallery.enroll(name, PEOPLE[face], application="door", **options)
            return
        if name in self.model and not another:
            with pytest.raises(AlreadyEnrolledError):
                self.gallery.enroll(name, PEOPLE[face], application="door", **options)
            return
        (added,) = self.gallery.enroll(name, PEOPLE[face], application="door", **options)
        slots = self.model.setdefault(name, {})
        assert added.slot == min(set(range(9)) - set(slots))
        slots[added.slot] = face, self.epoch

    @rule()
    def mask(self):
        is_masked = self.gallery.application("door").masked
        expected = 0 if is_masked else sum(map(len, self.model.values()))
        assert self.gallery.mask(application="door") == expected
        assert self.gallery.application("door").masked

    @rule(name=NAMES, slot=st.none() | st.integers(0, 1))
    def revoke(self, name, slot):
        slots = self.model.get(name, {})
        doomed = set(slots) if slot is None else {slot} & set(slots)
        if not doomed:
            with pytest.raises(EnrolmentError):
                self.gallery.revoke(name, application="door", slot=slot)
            return
        assert self.gallery.revoke(name, application="door", slot=slot) == len(doomed)
        self.burn(name, [slots.pop(each) for each in doomed])
        if not slots:
            del self.model[name]

    @rule(name=NAMES, face=FACES)
    def renew(self, name, face):
        old = list(self.model.get(name, {}).values())
        refused = not old and name not in self.burned
        epochs = [self.burned.get(name, -1), *(epoch for _, epoch in old)]
        refused |= self.common and max(epochs) >= self.epoch
        if refused:
            with pytest.raises(EnrolmentError):
                self.gallery.renew(name, PEOPLE[face], application="door")
            return
        (added,) = self.gallery.renew(name, PEOPLE[face], application="door")
        self.burn(name, old)
        self.model[name] = {added.slot: (face, self.epoch)}

    def burn(self, name, lost):
        epochs = [epoch for _, epoch in lost]
        if epochs:
            self.burned[name] = max(self.burned.get(name, -1), *epochs)

    @precondition(lambda self: self.common)
    @rule(retire=st.booleans())
    def rotate(self, retire):
        self.epoch = self.gallery.rotate(application="door", retire=retire).epoch
        if retire:
            for name, slots in self.model.items():
                self.burn(name, list(slots.values()))
            self.model.clear()

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
            expected = RevokedError if name in self.burned else NotEnrolledError
            with pytest.raises(expected):
                self.gallery.verify(name, PEOPLE[face], application="door")
            return
        decision = self.gallery.verify(name, PEOPLE[face], application="door")
        held = {known for known, _ in self.model[name].values()}
        assert (decision.distance == 0) == (face in held)

    @rule(face=FACES)
    def identify(self, face):
        found = self.gallery.identify(PEOPLE[face], application="door", threshold=0)
        expected = {name for name, slots in self.model.items() if face in {known for known, _ in slots.values()}}
        assert {candidate.subject_id for candidate in found} == expected
        ranked = self.gallery.identify(PEOPLE[face], application="door", top=9, closed=True)
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
