"""Kill -9 of a working gallery, and many writers at once, each for a moment."""

import json

from benchmarks import gallery_crash, store_race


def figures(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_nothing_is_lost_or_half_done(capsys):
    assert gallery_crash.main(["--trials", "4"]) == 0
    assert figures(capsys) == {"trials": 4, "lost": 0, "half_done": 0}


def test_a_write_that_is_not_one_transaction_is_noticed(capsys, monkeypatch):
    def in_two_steps(self, tombstones, new, event, **options):
        self.revoke(new[0].application, tombstones, event)
        gallery_crash.time.sleep(0.05)
        return self.add(new, event, another=True, returning=True, **options)

    monkeypatch.setattr(gallery_crash.SqliteStore, "replace", in_two_steps)
    assert gallery_crash.main(["--trials", "12", "--seed", "3"]) == 1
    assert figures(capsys)["half_done"] > 0


def test_a_race_loses_nothing(capsys):
    options = ["--seconds", "2", "--processes", "2", "--threads", "4"]
    assert store_race.main(options) == 0
    found = figures(capsys)
    assert found.pop("operations") > 8
    assert found == {"lost": 0, "forgotten_revocations": 0, "unexpected_errors": 0}
