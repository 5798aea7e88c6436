"""A folder of subjects as file managers, copies under way and link makers leave it."""

import io

import numpy as np
from PIL import Image

IMAGES = (
    "anna/07.PNG",
    "anna/1.jpg",
    "anna/2.bmp",
    "anna-2/1.jpeg",
    "anna-2/2.jpg",
    "bert/1.tif",
    "bert/2.webp",
    "bert/3.gif",
)
"""What every command reads, in order."""
SKIPPED = (
    ".hidden.jpg",
    "._anna.jpg",
    "Thumbs.db",
    "anna/._1.jpg",
    "anna/.tmp-x.jpg",
    "anna/~$1.jpg",
    "anna/1.jpg~",
    "anna/1.jpg.part",
    "anna/.cache/1.jpg",
    ".thumbs/1.jpg",
    "__MACOSX/anna/1.jpg",
    "__MACOSX/1.jpg",
    "bert/@eaDir/1.jpg",
    "@eaDir/2.jpg",
)
FORMATS = {"jpg": "JPEG", "jpeg": "JPEG", "tif": "TIFF"}


def write_nasty_folder(root):
    """Write it; the images are aligned faces by their size, each with other pixels."""
    generator = np.random.default_rng(3)
    for number, name in enumerate((*IMAGES, *SKIPPED)):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        suffix = path.suffix[1:].lower()
        stream = io.BytesIO()
        greys = generator.integers(0, 256, (112, 112), dtype=np.uint8)
        Image.fromarray(greys).convert("RGB").save(
            stream, FORMATS.get(suffix, suffix.upper()) if number < len(IMAGES) else "JPEG"
        )
        path.write_bytes(stream.getvalue())
    (root / "bert" / "3.gif").rename(root.parent / "elsewhere.gif")
    (root / "bert" / "3.gif").symlink_to(root.parent / "elsewhere.gif")
    (root / "anna" / "notes.txt").write_text("not an image")
    (root / "list.csv").write_text("not an image either")
    (root / "nothing").mkdir()
    (root / "anna" / "loop").symlink_to(root)
    (root / "carl").symlink_to(root / "anna")
    return root
