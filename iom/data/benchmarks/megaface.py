"""MegaFace: probes among distractors (Kemelmacher-Shlizerman et al., CVPR 2016).

`facescrub_features_list.json`: `{"id": [...], "path": [...]}`, and
`megaface_features_list.json_SIZE_SET`: `{"path": [...]}`, one list for each number of distractors.
"""

from pathlib import Path

import numpy as np

from iom.data.benchmarks.base import DistractorBenchmark
from iom.data.table_files import present, read_object, shown
from iom.errors import DataError


def read_megaface(
    probes: Path, distractors: Path, probe_root: Path, distractor_root: Path, *, name: str = ""
) -> DistractorBenchmark:
    """The two lists over two folders of aligned images."""
    listed = _lists(probes, "id", "path")
    others = _lists(distractors, "path")
    for source, paths in ((probes, listed["path"]), (distractors, others["path"])):
        names, counts = np.unique(paths, return_counts=True)
        if (counts > 1).any():
            twice = names[counts > 1].tolist()
            raise DataError(f"{source}: {len(twice)} images are listed twice: {shown(twice)}")
    return DistractorBenchmark(
        name=name or f"megaface_{len(others['path'])}",
        images=present(listed["path"], probe_root, probes) + present(others["path"], distractor_root, distractors),
        subjects=np.unique(listed["id"], return_inverse=True)[1].astype(np.int64),
    )


def _lists(path: Path, *keys: str) -> dict[str, list[str]]:
    content = read_object(path, "expected a list of MegaFace")
    lists: dict[str, list[str]] = {}
    for key in keys:
        values = content.get(key)
        if not isinstance(values, list) or not values or not all(isinstance(v, str) for v in values):
            raise DataError(f"{path}: expected a list of texts under '{key}'")
        lists[key] = values
    if len({len(values) for values in lists.values()}) > 1:
        raise DataError(f"{path}: expected lists of one length under {', '.join(keys)}")
    return lists
