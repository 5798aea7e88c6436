"""Dynamic batching: each waiting call ends, however the work ends."""

import threading

import numpy as np
import pytest

from iom.service.face_pipeline import MicroBatcher

ROW = np.zeros((1, 2))


@pytest.mark.parametrize("ending", [SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError])
def test_calls_end_when_the_work_is_interrupted(ending):
    entered, go, sizes = threading.Event(), threading.Event(), []

    def work(rows, _):
        sizes.append(len(rows))
        entered.set()
        assert go.wait(10)
        if len(rows) > 1:
            raise ending
        return rows

    batcher = MicroBatcher(work, most=8)
    results = [None] * 4

    def call(number):
        try:
            results[number] = batcher(ROW, [None])
        except BaseException as error:
            results[number] = error

    threads = [threading.Thread(target=call, args=(number,), daemon=True) for number in range(4)]
    threads[0].start()
    assert entered.wait(10)
    for thread in threads[1:]:
        thread.start()
    while len(batcher.waiting) < 3:
        pass
    go.set()
    for thread in threads:
        thread.join(2)
    assert not any(thread.is_alive() for thread in threads)
    assert sizes[:2] == [1, 3]
    assert len(results[0]) == 1
    if issubclass(ending, Exception):  # each is computed alone then
        assert all(len(each) == 1 for each in results)
    else:
        assert sorted(type(each).__name__ for each in results[1:]) == sorted(
            [ending.__name__, "RuntimeError", "RuntimeError"]
        )
    assert len(batcher(ROW, [None])) == 1


def test_a_result_for_too_few_rows_is_an_error():
    batcher = MicroBatcher(lambda rows, _: rows[:1], most=8)
    with pytest.raises(ValueError, match="expected 2 rows of results, received 1"):
        batcher(np.zeros((2, 2)), [None, None])
