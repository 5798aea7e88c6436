"""Kill -9 of a working gallery, a few times; and the benchmark finds what it is there to find."""

import json

from benchmarks import gallery_crash


def figures(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_nothing_is_lost_or_half_done(capsys):
    assert gallery_crash.main(["--trials", "4"]) == 0
    assert figures(capsys) == {"trials": 4, "lost": 0, "half_done": 0}


def test_a_write_that_is_not_one_transaction_is_noticed(capsys, monkeypatch):
    def in_two_steps(self, old, new, event):
        self.revoke(new[0].application, [each.record for each in old], event)
        gallery_crash.time.sleep(0.05)
        return self.add(new, event, new_subjects=False)

    monkeypatch.setattr(gallery_crash.SqliteStore, "replace", in_two_steps)
    assert gallery_crash.main(["--trials", "12", "--seed", "3"]) == 1
    assert figures(capsys)["half_done"] > 0
