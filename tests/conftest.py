"""Fixtures that several rooms share."""

import os
import shutil
import sys
from pathlib import Path

import hypothesis
import pytest

from benchmarks.command_line import weights_file
from iom._files import data_folder
from iom.errors import WeightsError

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores; so do the processes that tests start
    for pool in ("INTRAOP", "INTEROP"):
        os.environ.setdefault(f"TF_NUM_{pool}_THREADS", "1")
# Stores wait for the disk at every write, which no test measures: a killed process loses nothing in memory either.
MEMORY, MEMORY_BYTES = Path("/dev/shm"), 4 << 30
if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > MEMORY_BYTES:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
# How long an example takes says something about the machine, nothing about the code.
hypothesis.settings.register_profile("iom", deadline=None)
hypothesis.settings.load_profile("iom")
ROOT = Path(__file__).parents[1]


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, default=0, help="what every test starts its chances from")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Seed the weights that a test, or a fixture made for it, draws without asking."""
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(item.config.getoption("--seed"))


@pytest.fixture(scope="session")
def root():
    """The project's top folder."""
    return ROOT


@pytest.fixture(scope="session")
def prepared_data():
    """The folder of prepared data, of docs/reproduce.md; tests that need it skip where it is absent."""
    folder = data_folder()
    if not (folder / "lfw_112x112").is_dir():
        pytest.skip("needs the prepared data that IOM_DATA names (docs/reproduce.md), which are not here")
    return folder


@pytest.fixture(scope="session")
def foreign_weights():
    """Finds a file of foreign weights by a pattern, such as `yunet/*.onnx`; skips the test where there is none."""

    def find(pattern):
        try:
            return weights_file(pattern)
        except WeightsError as error:
            pytest.skip(str(error))

    return find
