"""Small products take one thread."""

from concurrent.futures import ThreadPoolExecutor

from iom._blas import _controller, one_thread


def threads():
    return {each["num_threads"] for each in _controller().info() if each["user_api"] == "blas"}


def test_one_thread_meanwhile_and_what_was_before_afterwards():
    def meanwhile(_):
        with one_thread():
            return threads()

    with _controller().limit(limits=2, user_api="blas"):
        assert meanwhile(0) == {1}
        assert threads() == {2}
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(meanwhile, range(40))) == [{1}] * 40
        assert meanwhile(0) == {1}
        assert threads() == {2}
