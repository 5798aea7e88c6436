"""Every export format, run by its own runtime on real faces and compared with the hasher.

    python -m benchmarks.export_matrix

For each hasher and format a cell: share of equal symbols, equal error rate on LFW's pairs under one
key (`stolen_key`) and that of the hasher itself, seconds to write and check, megabytes. A format
that fails has its reason in `failure`. Ends with one line of JSON, `cells`.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.command_line import add_data_option, new_parser, run

HASHERS = ("pre_models/mobilefacenet_y1_1536x2", "bundled")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `python -m benchmarks.export_matrix`."""
    parser = new_parser("python -m benchmarks.export_matrix", str(__doc__))
    add_data_option(parser)
    parser.add_argument("--hashers", nargs="+", default=list(HASHERS))
    parser.add_argument("--formats", nargs="+", default=[], help="default: all")
    parser.add_argument("--pairs", type=int, default=6000, help="default: %(default)s")
    return run(_measure, parser, argv)


def _measure(arguments: argparse.Namespace) -> int:
    from iom.export.context import load_source
    from iom.export.exporter import Exporter, calibration_faces
    from iom.export.formats import FORMATS
    from iom.export.trial import faces_of_pairs
    from iom.keys import TransformKey

    root = arguments.data
    cells: list[dict[str, Any]] = []
    for hasher in arguments.hashers:
        source = load_source(hasher)
        pairs = root / "lists" / "lfw_pairs.txt"
        size = source.embedder.input_size
        faces = faces_of_pairs(pairs, root / "lfw_112x112", size=size, max_pairs=arguments.pairs)
        calibration = calibration_faces(root / "fiw_112x112", 64, size=size)
        key = TransformKey(bytes(32))
        exporter = Exporter(source, calibration=calibration, faces=faces, key=key)
        for name in arguments.formats or FORMATS:
            cells.append({"hasher": Path(hasher).name, "format": name, **_cell(exporter, name)})
            print(json.dumps(cells[-1]), flush=True)
    print(json.dumps({"cells": cells}))
    return 0


def _cell(exporter: Any, name: str) -> dict[str, Any]:
    from iom.errors import IomError

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            check = exporter.export([name], Path(folder), name="hasher")[name].check
        except IomError as error:
            return {"passed": False, "failure": " ".join(str(error).split())}
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    return {
        "passed": True,
        "equal_symbols": round(check.equal_symbols, 5),
        "eer": check.eer,
        "source_eer": check.source_eer,
        "images": check.images,
        "seconds": round(time.perf_counter() - start, 1),
        "megabytes": round(size / 1e6, 2),
    }


if __name__ == "__main__":
    raise SystemExit(main())
