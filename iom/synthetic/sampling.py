"""Faces of nobody, for the demo, the smoke configurations and the tests.

Their statistics were taken from LFW (docs/face_model.md): never train anything on them that is then
evaluated on LFW.
"""

import functools
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from iom.errors import DataError
from iom.synthetic.face_model import FaceModel

MODEL_PATH = Path(__file__).with_name("face_model.npz")


@functools.cache
def load_face_model(path: Path = MODEL_PATH) -> FaceModel:
    """The face model that comes with the package, or another one.

    Raises:
        DataError: The file is missing or damaged.
    """
    return FaceModel.load(path)


def write_folder(root: Path, subjects: int, images: int, *, seed: int, progress: bool = False) -> None:
    """Write synthetic subjects as `<root>/<subject>/<image>.png`.

    The folder appears at once when all is written: an interrupted run leaves nothing of that name.

    Args:
        root: A folder that does not exist yet, or is empty.
        subjects: How many subjects.
        images: How many images of each.
        seed: As in `FaceModel.sample`.
        progress: Show a progress bar.

    Raises:
        DataError: `root` holds something already, or cannot be written; a count below one.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(f"{root}: expected a new or empty folder, and there is something in it")
    pixels, labels = load_face_model().sample(subjects, images, seed=seed)
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".tmp-{root.name}-"))
    except OSError as error:
        raise DataError(f"cannot write {root}: {error.strerror}") from error
    try:
        faces = zip(pixels, labels, strict=True)
        for row, (face, label) in enumerate(
            tqdm(faces, total=len(pixels), desc="writing faces", unit="image", disable=not progress)
        ):
            folder = temporary / f"subject_{label:04d}"
            folder.mkdir(exist_ok=True)
            Image.fromarray(face).save(folder / f"{row % images:03d}.png")
        temporary.chmod(0o755)
        if root.exists():
            root.rmdir()
        temporary.rename(root)
    except OSError as error:
        raise DataError(f"cannot write {root}: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
