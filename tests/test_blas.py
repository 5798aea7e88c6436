"""Small products take one thread."""

from iom._blas import _controller, one_thread


def threads():
    return {each["num_threads"] for each in _controller().info() if each["user_api"] == "blas"}


def test_one_thread_meanwhile_and_what_was_before_afterwards():
    with _controller().limit(limits=2, user_api="blas"):
        with one_thread():
            assert threads() == {1}
        assert threads() == {2}
