"""What `verify_peers` starts in the environment of a library: the three tasks of docs/comparison.md.

    python -P foreign_verify.py LIBRARY A.jpg B.jpg FOLDER TIMES

Decides about the two photographs and notes the peak of memory; then, where TIMES is not 0, does each task that often
and notes the lowest seconds and seconds of all cores. FOLDER is for what a library stores. Ends with a line of JSON.
"""

import json
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Tasks(NamedTuple):
    """Are these two photographs of one person; where are faces; `people` of a photograph to who is on another."""

    verify: Callable[[str, str], bool]
    faces: Callable[[str], object]
    people: Callable[[str, Path], Callable[[str], str]]


def _iom() -> Tasks:
    import iom

    def people(picture: str, folder: Path) -> Callable[[str], str]:
        keys = f"file:{folder}/door.keys?key-file={folder}/door.wrap"
        gallery = iom.Gallery.open(folder / "door.db", keys=keys, create=True)
        gallery.enroll("alice", picture)
        return lambda probe: gallery.identify(probe)[0].subject_id

    return Tasks(lambda a, b: iom.verify(a, b).match, iom.faces, people)


def _face_recognition() -> Tasks:
    import face_recognition  # type: ignore[import-not-found]

    def encoding(picture: str) -> object:
        return face_recognition.face_encodings(face_recognition.load_image_file(picture))[0]

    def verify(a: str, b: str) -> bool:
        return bool(face_recognition.compare_faces([encoding(a)], encoding(b))[0])

    def people(picture: str, folder: Path) -> Callable[[str], str]:
        known = {"alice": encoding(picture)}

        def who(probe: str) -> str:
            distances = face_recognition.face_distance(list(known.values()), encoding(probe))
            return list(known)[distances.argmin()] if distances.min() <= 0.6 else ""

        return who

    return Tasks(verify, lambda a: face_recognition.face_locations(face_recognition.load_image_file(a)), people)


def _deepface(**options: str) -> Tasks:
    from deepface import DeepFace  # type: ignore[import-not-found]

    def people(picture: str, folder: Path) -> Callable[[str], str]:
        (folder / "alice").mkdir()
        shutil.copy(picture, folder / "alice")
        return lambda probe: (
            Path(DeepFace.find(probe, str(folder), silent=True, **options)[0]["identity"][0]).parent.name
        )

    return Tasks(lambda a, b: bool(DeepFace.verify(a, b, **options)["verified"]), DeepFace.extract_faces, people)


LIBRARIES: dict[str, Callable[[], Tasks]] = {
    "iom": _iom,
    "face_recognition": _face_recognition,
    "deepface_dlib": lambda: _deepface(model_name="Dlib"),
    "deepface": _deepface,
}


def _main(library: str, a: str, b: str, folder: str, times: str) -> None:
    tasks = LIBRARIES[library]()
    figures: dict[str, object] = {"match": tasks.verify(a, b)}
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    figures["rss_mb"] = int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024
    if repeats := int(times):
        who = tasks.people(a, Path(folder))
        figures["who"] = who(b)
        warm = {"verify": lambda: tasks.verify(a, b), "faces": lambda: tasks.faces(a), "who": lambda: who(b)}
        for name, task in warm.items():
            lowest = map(min, zip(*(_spent(task) for _ in range(repeats)), strict=True))
            figures[f"{name}_seconds"], figures[f"{name}_cpu_seconds"] = lowest
    print(json.dumps(figures))


def _spent(task: Callable[[], object]) -> tuple[float, float]:
    seconds, cpu = time.perf_counter(), time.process_time()
    task()
    return time.perf_counter() - seconds, time.process_time() - cpu


if __name__ == "__main__":
    _main(*sys.argv[1:])
