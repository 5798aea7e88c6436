"""What `verify_peers` starts in the environment of a library: is this one person, once and then some more times.

    python -P foreign_verify.py LIBRARY A.jpg B.jpg TIMES

Prints the decision, the lowest seconds and seconds of all cores of one of the later times, and the peak of memory.
"""

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

Verify = Callable[[str, str], bool]


def _iom() -> Verify:
    import iom

    return lambda a, b: iom.verify(a, b).match


def _face_recognition() -> Verify:
    import face_recognition  # type: ignore[import-not-found]

    def verify(a: str, b: str) -> bool:
        first, second = (face_recognition.face_encodings(face_recognition.load_image_file(each))[0] for each in (a, b))
        return bool(face_recognition.compare_faces([first], second)[0])

    return verify


def _deepface(**options: str) -> Verify:
    from deepface import DeepFace  # type: ignore[import-not-found]

    return lambda a, b: bool(DeepFace.verify(a, b, **options)["verified"])


LIBRARIES = {
    "iom": _iom,
    "face_recognition": _face_recognition,
    "deepface_dlib": lambda: _deepface(model_name="Dlib"),
    "deepface": _deepface,
}


def _main(library: str, a: str, b: str, times: str) -> None:
    verify = LIBRARIES[library]()
    figures: dict[str, object] = {"match": verify(a, b)}
    spent = []
    for _ in range(int(times)):
        seconds, cpu = time.perf_counter(), time.process_time()
        verify(a, b)
        spent.append((time.perf_counter() - seconds, time.process_time() - cpu))
    if spent:
        figures["warm_seconds"], figures["warm_cpu_seconds"] = map(min, zip(*spent, strict=True))
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    figures["rss_mb"] = int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024
    print(json.dumps(figures))


if __name__ == "__main__":
    _main(*sys.argv[1:])
