"""The importer of the packaged detector refuses any file but its source."""

import pytest

from iom.errors import WeightsError
from iom.pretrained.importers.mtcnn import read_wheel


def test_another_file_is_one_clear_line(tmp_path):
    path = tmp_path / "mtcnn.whl"
    with pytest.raises(WeightsError, match=r"mtcnn\.whl: cannot be read: No such file"):
        read_wheel(path)
    path.write_bytes(b"PK")
    with pytest.raises(WeightsError, match=r"expected mtcnn-1\.0\.0-py3-none-any\.whl, SHA-256 .*, received another"):
        read_wheel(path)
