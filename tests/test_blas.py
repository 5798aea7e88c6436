"""Small products take one thread."""

import threading

from iom._blas import _controller, one_thread


def threads():
    return {each["num_threads"] for each in _controller().info() if each["user_api"] == "blas"}


def test_one_thread_meanwhile_and_what_was_before_afterwards():
    _controller.cache_clear()
    with _controller().limit(limits=2, user_api="blas"):
        before = threads()
        inside, leave = threading.Event(), threading.Event()

        def other():
            with one_thread():
                inside.set()
                leave.wait(10)

        thread = threading.Thread(target=other, daemon=True)
        with one_thread():
            thread.start()
            inside.wait(10)
            assert threads() == {1}
        assert threads() == {1}  # the other one is still in it
        leave.set()
        thread.join()
        assert threads() == before == {2}
