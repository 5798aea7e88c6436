"""The faces of a picture: all of them for a look, or the one that a comparison takes."""

import base64
import dataclasses
import functools
import html
import io
from collections.abc import Iterator, Sequence
from typing import Any, overload

from PIL import Image, ImageDraw

from iom._registry import lookup
from iom.errors import FaceError
from iom.photos.align import ARCFACE, TEMPLATES, Face, align, face_size, qualities_of
from iom.photos.detect import Detect, build_detector
from iom.photos.images import Picture, Pixels, is_aligned, picture_name, read_picture
from iom.photos.mtcnn import Mtcnn
from iom.photos.photograph import AlignedFace, PhotoSettings, aligned_face, choose_faces

MIN_SHARPNESS = 2.0
"""Variance of the Laplacian of the 112 x 112 face below which it is too blurred to compare: blur of about four pixels.

The least of 400 images each of LFW, CFP and FIW is 29; of 60 synthetic faces, which are smooth, 6; a surface of one
colour has 0.
"""
ONE_FACE = PhotoSettings(faces="dominant")
"""The largest face, where no other is nearly as large."""
QUICK_SIDE = 640
"""Side to which the first look of `one_face` shrinks a picture."""
CLEAR = 64.0
"""Size in pixels there of a face that the first look decides about: one half as large would still have been found."""
_WIDTH = 640
_COLOUR = (255, 200, 0)
_ADVICE = {
    "no_face": "show it upright, from the front, well lit and not covered",
    "too_small": "take it from nearer, or with more pixels",
    "several_faces": "cut the picture to one person",
    "too_blurred": "take a sharper picture",
}


class Faces(Sequence[AlignedFace]):
    """The faces of a picture by falling score, an immutable sequence; it shows itself in a notebook.

    Attributes:
        picture: The picture they are of, upright, RGB `(H, W, 3)` uint8.
        notes: How it was read, as of `read_picture`, and which faces were left out, as of `choose_faces`.
        reason: Why there is none, else empty.
    """

    def __init__(
        self, picture: Pixels, faces: Sequence[AlignedFace], notes: Sequence[str] = (), reason: str = ""
    ) -> None:
        self.picture, self.notes, self.reason = picture, tuple(notes), reason
        self._faces = tuple(faces)

    def __len__(self) -> int:
        return len(self._faces)

    @overload
    def __getitem__(self, index: int) -> AlignedFace: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[AlignedFace]: ...

    def __getitem__(self, index: int | slice) -> AlignedFace | Sequence[AlignedFace]:
        return self._faces[index]

    def __iter__(self) -> Iterator[AlignedFace]:
        return iter(self._faces)

    def __repr__(self) -> str:
        height, width = self.picture.shape[:2]
        head = f"{len(self)} face{'' if len(self) == 1 else 's'} in a picture of {width} x {height} pixels"
        return "\n".join([f"{head}{f' ({self.reason})' if self.reason else ''}", *(f"  {face!r}" for face in self)])

    def _repr_html_(self) -> str:
        picture = self.draw()
        picture.thumbnail((_WIDTH, _WIDTH))
        crops = "".join(
            f'<figure style="display:inline-block;margin:4px"><img src="{_data_url(Image.fromarray(face.crop))}">'
            f"<figcaption>{face.number}: score {face.score:.3f}, {face.size:.0f} pixels</figcaption></figure>"
            for face in self
        )
        text = html.escape(repr(self).partition("\n")[0])
        return f'<div><p>{text}</p><img src="{_data_url(picture)}"><div>{crops}</div></div>'

    def draw(self) -> Image.Image:
        """The picture with the box, number and landmarks of each face."""
        picture = Image.fromarray(self.picture)
        pen = ImageDraw.Draw(picture)
        width = max(1, round(max(picture.size) / 400))
        for face in self:
            pen.rectangle(face.box, outline=_COLOUR, width=width)
            for x, y in face.landmarks.tolist():
                pen.ellipse((x - width, y - width, x + width, y + width), fill=_COLOUR)
            left, top = max(face.box[0], 0), max(face.box[1], 0)
            pen.text((left + 2 * width, top + 2 * width), str(face.number), fill=_COLOUR, font_size=8 * width + 4)
        return picture

    def sheet(self) -> Image.Image:
        """The picture as of `draw`, and the crops below it."""
        picture = self.draw()
        columns = max(1, picture.width // 112)
        rows = -(-len(self) // columns)
        sheet = Image.new("RGB", (max(picture.width, 112), picture.height + 112 * rows), "white")
        sheet.paste(picture)
        for i, face in enumerate(self):
            place = (112 * (i % columns), picture.height + 112 * (i // columns))
            sheet.paste(Image.fromarray(face.crop), place)
        return sheet


def faces(picture: Picture, *, detector: Detect | None = None, **settings: Any) -> Faces:
    """All faces of a picture, with boxes, landmarks, scores and aligned crops; none is no error.

    Args:
        picture: A path, bytes, base64 text, an open file, an RGB array or a Pillow image (see `read_picture`). One of
            exactly 112 x 112 pixels is a face that is aligned already.
        detector: Of `build_detector`; by default the packaged one.
        settings: Fields of `iom.photos.photograph.PhotoSettings`, such as `min_score` and `min_size`.

    Raises:
        FaceError: The picture cannot be read.
    """
    chosen = PhotoSettings(**settings)
    pixels, notes = read_picture(picture, max_megapixels=chosen.max_megapixels)
    if is_aligned(pixels, notes):
        return Faces(pixels, [AlignedFace(0, pixels, qualities_of(pixels))], (*notes, "aligned"))
    try:
        found, more = _found(pixels, chosen, detector, picture_name(picture))
    except FaceError as error:
        return Faces(pixels, (), notes, str(error))
    return Faces(pixels, found, (*notes, *more))


def one_face(
    picture: Picture,
    *,
    template: str = ARCFACE,
    detector: Detect | None = None,
    settings: PhotoSettings = ONE_FACE,
    min_sharpness: float = MIN_SHARPNESS,
    checked: bool = True,
    source: str | None = None,
) -> tuple[Pixels, AlignedFace]:
    """The one face of a picture that a comparison takes: the chip for a recogniser, and what is known of the face.

    Args:
        picture: As for `faces`. An aligned face of 112 x 112 pixels is itself the chip, whatever the template.
        template: A name of `iom.photos.align.TEMPLATES`; the chip is cut from the picture itself.
        detector: Of `build_detector`; by default the one that `settings` name looks at a smaller picture first, and at
            one of their `max_side` where it finds no large face there.
        settings: Which face, and how large it must be at least.
        min_sharpness: Refuse a face that is less sharp; 0 takes any.
        checked: Refuse a face that is too small or too blurred, and an aligned picture in which no face is found.
        source: Name of the picture in errors, by default its path.

    Returns:
        The chip `(S, S, 3)` uint8, or `(112, 112, 3)`; and the face, whose `others` counts further faces.

    Raises:
        FaceError: There is no face, several of like size, or the face is too small or too blurred; `status` says which.
    """
    shape = lookup(TEMPLATES, template, "template")
    pixels, notes = read_picture(picture, source=source, max_megapixels=settings.max_megapixels)
    name = source or picture_name(picture)
    if not checked:
        settings, min_sharpness = settings.model_copy(update={"min_size": 0.0}), 0.0
    try:
        if is_aligned(pixels, notes, source=name):
            face, chip = AlignedFace(0, pixels, qualities_of(pixels)), pixels
        else:
            [face], _ = _found(pixels, settings, detector or _quick(settings), name)
            chip = face.crop if template == ARCFACE else align(pixels, face.landmarks, template=shape, source=name)
        if face.sharpness < min_sharpness:
            raise FaceError(
                f"{name}: expected a face of sharpness {min_sharpness:g} or more, found {face.sharpness:.1f}",
                status="too_blurred",
            )
        if checked and chip is pixels and not Mtcnn(threads=0).holds_face(pixels):
            raise FaceError(f"{name}: expected an aligned face of 112x112 pixels, found none", status="no_face")
    except FaceError as error:
        advice = _ADVICE.get(error.status)
        raise FaceError(f"{error}; {advice}" if advice else str(error), status=error.status) from error
    return chip, face


def _found(
    pixels: Pixels, settings: PhotoSettings, detect: Detect | None, source: str
) -> tuple[list[AlignedFace], tuple[str, ...]]:
    """Faces of a picture as settings choose them, and notes as of `choose_faces`."""
    detect = detect or _packaged(settings.detector, settings.max_side)
    known: list[Face] = [face for face in detect(pixels) if face.score >= settings.score]
    chosen, notes = choose_faces(known, pixels.shape[:2], settings, source=source)
    faces = [aligned_face(pixels, number, known[number], size) for number, size in chosen]
    return [dataclasses.replace(face, others=len(known) - 1) for face in faces], notes


@functools.lru_cache(maxsize=4)
def _packaged(name: str, max_side: int) -> Detect:
    return build_detector(name, max_side=max_side, threads=0)


def _quick(settings: PhotoSettings) -> Detect:
    """A detector that looks at large pictures only where it finds no large face in smaller ones."""

    def detect(pixels: Pixels) -> list[Face]:
        shrink = QUICK_SIDE / max(pixels.shape[:2])
        if shrink < 1 and settings.max_side > QUICK_SIDE:
            found = _packaged(settings.detector, QUICK_SIDE)(pixels)
            if any(face_size(face.points) * shrink >= CLEAR for face in found if face.score >= settings.score):
                return found
        return _packaged(settings.detector, settings.max_side)(pixels)

    return detect


def _data_url(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
