"""Commands of photographs and data sets: `iom align`, `iom hash`, `iom convert`, `iom synthesize`, ..."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click

from iom._files import sha256_of, write_secret
from iom.cli._command import (
    COUNT,
    Answer,
    DetectorWeights,
    HasherOptions,
    Quiet,
    Workers,
    argument,
    goes_on_when_repeated,
    option,
    output_folder,
    output_option,
    root,
)
from iom.errors import ConfigError, DataError, KeyMaterialError

if TYPE_CHECKING:
    from iom.keys import TransformKey
    from iom.photos.pipeline import PhotoRun

command = root.section("Data")

KEY_VARIABLE = "IOM_KEY"
MAX_SHOWN = 5
"""Findings of a kind that `iom check-data` prints; `--json` gives all."""

Size = Annotated[int, option("side of an image", "PIXELS", type=COUNT)]


@dataclasses.dataclass(frozen=True)
class PhotoOptions:
    """How faces are found in photographs, and by whom."""

    faces: Annotated[str, option("of several: all, largest, centre, dominant, or one")] = "largest"
    detector: Annotated[str | None, option("mtcnn (the default), yunet or yunet_onnx", "NAME")] = None
    detector_weights: DetectorWeights = None
    points: Annotated[Path | None, option("landmarks that are known already (CSV)", "FILE")] = None
    min_score: Annotated[float | None, option("lowest score (default: the detector's own)", "X")] = None
    min_size: Annotated[float, option("smallest side of a face", "PIXELS")] = 32.0
    detect_side: Annotated[int, option("detect at this size; 640 is faster", "PIXELS")] = 1024
    max_megapixels: Annotated[float | None, option("refuse larger photographs (default: 64)", "N")] = None
    workers: Annotated[
        int, option("processes that decode and find faces; 0: in this one", "N", type=click.IntRange(min=0))
    ] = 2
    seconds: Annotated[float, option("give a photograph up after so long", "S")] = 120.0
    quiet: Quiet = False

    def run(self, photos: Path, *, aligned: bool = False) -> "PhotoRun":
        """The library's run over a folder; `aligned` photographs are faces, and need no detector."""
        from iom.photos.align import read_landmarks
        from iom.photos.images import MAX_MEGAPIXELS
        from iom.photos.photograph import ALIGNED, POINTS, PhotoSettings
        from iom.photos.pipeline import PhotoRun

        sources = {"--detector": self.detector, "--points": self.points, "--aligned": aligned}
        if len(given := [name for name, value in sources.items() if value]) > 1:
            raise ConfigError(f"{' and '.join(given)} exclude each other: give one of them")
        if not self.seconds > 0:
            raise ConfigError("expected --seconds above 0")
        file = self.points or self.detector_weights
        settings = PhotoSettings(
            detector=POINTS if self.points else ALIGNED if aligned else self.detector or "mtcnn",
            faces=self.faces,
            min_score=self.min_score,
            min_size=self.min_size,
            source=sha256_of(file) if file and file.is_file() else "",
            max_side=self.detect_side,
            max_megapixels=self.max_megapixels or MAX_MEGAPIXELS,
        )
        return PhotoRun(
            photos,
            settings,
            weights=self.detector_weights,
            points=read_landmarks(self.points) if self.points else None,
            workers=self.workers,
            seconds=self.seconds,
            progress=not self.quiet,
        )


@command(
    "align",
    renamed={"--which": "--faces", "--weights": "--detector-weights"},
    epilog="""\
Start the same command again to go on where it stopped. Beside the faces lie report.json, report.csv
(what was not found, or needs a look) and landmarks.csv (all faces found, for --points).
""",
    examples=(
        "photos faces --workers 4",
        "photos faces --detector yunet --detector-weights yunet.onnx --faces all",
        "photos faces --points landmarks.csv      # no detector needed",
    ),
)
def align(
    *,
    photos: Path,
    output: Annotated[Path, argument(type=output_folder)],
    photo: PhotoOptions,
    format: Annotated[str, option("jpg (quality 95) or png")] = "jpg",
) -> Answer:
    """Find the faces of a folder of photographs, or of one, and align them to 112x112, keeping the folders.

    OUTPUT is a new folder, or one to go on with.
    """
    from iom.photos.photograph import STATUSES
    from iom.photos.pipeline import align_photos

    with folder_of(photos) as folder, goes_on_when_repeated():
        run = photo.run(folder)
        report = align_photos(run, output, format=format)
    kinds = [kind for kind in STATUSES if report.get(kind) and kind != "several_faces"]
    counts = ", ".join(f"{report[kind]} {kind.replace('_', ' ')}" for kind in kinds)
    return Answer(
        {"output": output, **report},
        f"{report['photographs']} photographs: {counts}; {report['several_faces']} with several "
        f"faces; {report['faces_written']} faces in {output} (see report.csv there)",
    )


@command(
    "hash",
    renamed={"--out": "--output"},
    epilog="""\
The key comes from --key-file or from the environment variable IOM_KEY: the text that iom make-key
writes, or TransformKey.to_text(). There is no default key, and the command line takes none.

Start the same command again to go on where it stopped. Beside codes.parquet comes
codes.report.jsonl: what has no code and why, what needs a look, and the counts in its last line.
""",
    examples=(
        "photos --output codes.parquet --key-file door.key",
        "photos --output codes.parquet --key-file door.key \\\n"
        "      --detector yunet_onnx --detector-weights yunet.onnx",
        "faces --output codes.parquet --key-file door.key --aligned      # 112x112 faces",
    ),
)
def hash_(
    *,
    photos: Path,
    output: Annotated[Path, output_option("file of codes, *.parquet", folder=False)],
    key_file: Annotated[Path | None, option("key text (default: IOM_KEY holds it)", "FILE")],
    photo: Annotated[PhotoOptions, {"faces": {"default": "all"}}],
    aligned: Annotated[bool, option("the files are 112x112 faces: no detector")],
    landmarks: Annotated[bool, option("write the five points of each face, too")],
    models: HasherOptions,
) -> Answer:
    """Find, align, embed and hash the faces of a folder of photographs, or of one, into one file of codes."""
    from iom.photos.pipeline import BATCH, check_places, hash_photos, report_path

    if landmarks and aligned:
        raise ConfigError("--landmarks: aligned faces have none; leave out --aligned or this")
    try:
        with folder_of(photos) as folder, goes_on_when_repeated():
            run = photo.run(folder, aligned=aligned)
            check_places(folder, output)
            key = read_key(key_file)
            hasher = models.load(batch_size=BATCH)
            done = hash_photos(run, output, hasher=hasher, key=key, landmarks=landmarks)
    except OSError as error:  # no space left, no right to write
        raise DataError(
            f"{error.filename or output}: {error.strerror or error}; what was finished is "
            "kept, start the same command again to go on"
        ) from error
    counts, report = dict(done.counts), report_path(output)
    facts = {"codes": output, "report": report, "counts": dict(done.counts), "notes": dict(done.notes)}
    photographs, found = counts.pop("photographs"), counts.pop("faces")
    others = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count)
    lines = [f"{photographs} photographs: {others}"]
    if done.continued:
        lines.append(f"{done.continued} of them were finished before")
    lines.append(f"{found} codes in {output}; what needs a look in {report}")
    return Answer({**facts, "continued": done.continued}, "\n".join(lines))


@root.section("Try it")(
    "faces",
    renamed={"--out": "--output"},
    epilog="""\
A picture of exactly 112x112 pixels is a face that is aligned already.
Exit code 0: every photograph has a face; 1: one has none, or cannot be read; 2: wrong use.
""",
    examples=(
        "group.jpg",
        "*.jpg --output found       # each photograph with boxes, and its faces below",
        "group.jpg --json",
    ),
)
def faces(
    photos: Annotated[Sequence[Path], argument("PHOTO...", nargs=-1, required=True)],
    *,
    output: Annotated[Path | None, output_option("pictures of what was found")],
    detector: Annotated[str, option("mtcnn, yunet or yunet_onnx", "NAME")] = "mtcnn",
    detector_weights: DetectorWeights,
    min_score: Annotated[float | None, option("lowest score (default: the detector's own)", "X")] = None,
    min_size: Annotated[float, option("smallest side of a face", "PIXELS")] = 32.0,
) -> Answer:
    """Show the faces of photographs: boxes, scores, sizes and landmarks."""
    from iom.photos.detect import DETECTORS, build_detector
    from iom.photos.picture import faces

    find = build_detector(detector, weights=detector_weights, threads=0)
    lowest = DETECTORS[detector].min_score if min_score is None else min_score
    rows: list[dict[str, Any]] = []
    lines = []
    for number, photo in enumerate(photos):
        row: dict[str, Any] = {"photo": photo, "faces": [], "notes": [], "reason": ""}
        rows.append(row)
        try:
            found = faces(photo, detector=find, min_score=lowest, min_size=min_size)
        except DataError as error:
            row["reason"] = str(error)
            lines.append(str(error))
            continue
        row |= {"notes": list(found.notes), "reason": found.reason}
        for face in found:
            row["faces"].append({"face": face.number, **face.measures, "landmarks": face.landmarks.tolist()})
        lines.append(f"{photo}: {found!r}")
        if output is not None:
            row["picture"] = output / f"{number}_{photo.stem}.jpg"
            output.mkdir(parents=True, exist_ok=True)
            found.sheet().save(row["picture"], quality=90)
    return Answer({"photographs": rows}, "\n".join(lines), all(row["faces"] for row in rows))


@contextlib.contextmanager
def folder_of(photos: Path) -> Iterator[Path]:
    """A folder of photographs; for one photograph, a folder with it alone."""
    if not photos.is_file():
        yield photos
        return
    with tempfile.TemporaryDirectory(prefix="iom-") as folder:
        Path(folder, photos.name).symlink_to(photos.absolute())
        yield Path(folder)


def read_key(file: Path | None) -> "TransformKey":
    """The key of a file, or of the environment; no error repeats what is there."""
    from iom.keys import TransformKey

    if file is None and KEY_VARIABLE not in os.environ:
        raise KeyMaterialError(
            f"expected a key: --key-file FILE or the environment variable {KEY_VARIABLE}; `iom make-key FILE` makes one"
        )
    source = f"the environment variable {KEY_VARIABLE}" if file is None else str(file)
    try:
        text = os.environ[KEY_VARIABLE] if file is None else file.read_text(encoding="utf-8")
        return TransformKey.from_text(text)
    except (OSError, UnicodeDecodeError) as error:
        raise KeyMaterialError(f"{source}: cannot read the key") from error
    except KeyMaterialError as error:
        raise KeyMaterialError(f"{source}: {error}") from error


@command(
    "make-key",
    epilog="""\
The text in the file is the secret. Keep it apart from codes: who has both has much of the face, who
loses it has codes that nothing can be compared with.
""",
    examples=("door.key",),
)
def make_key(file: Path) -> Answer:
    """Make a transform key, in a new file that only its owner can read."""
    from iom.keys import TransformKey

    try:
        if not file.parent.is_dir():
            raise DataError(f"{file}: cannot be written: no folder {file.parent}")
        write_secret(file, TransformKey.generate().to_text() + "\n")
    except FileExistsError as error:
        raise DataError(f"{file} is there already; a key is never overwritten") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be written: {error.strerror}") from error
    return Answer({"file": file}, f"a new key in {file}; it is the secret: keep it apart from codes")


@command(
    "convert",
    epilog="""\
kinds:
  folder:tfrecord     <subject>/<image> to TFRecord shards, to train from (data.root)
  recordio:folder     train.rec + train.idx (+ property) of MXNet / InsightFace
  recordio:tfrecord
  tfrecord:folder     our shards
  bin:pairs           InsightFace .bin to a folder with images/ and pairs.txt
  pairs:bin
  carray:pairs        bcolz folder with its _list.npy
  carray:bin

What was written is read again and compared. Start the same command again to go on where it stopped.
""",
    examples=(
        "faces shards --kind folder:tfrecord",
        "faces_emore/train.rec faces --kind recordio:folder --workers 4",
        "lfw.bin lfw_pairs --kind bin:pairs",
    ),
)
def convert(
    source: Annotated[Path, argument("FROM")],
    target: Annotated[Path, argument("TO", type=output_folder)],
    kind: Annotated[str, option("what to what, see below", "A:B")],
    size: Size = 112,
    per_shard: Annotated[int, option("images a shard", "N", type=COUNT)] = 4096,
    workers: Workers = 2,
    skip_damaged: Annotated[bool, option("leave bad images out, count and list them")] = False,
    quiet: Quiet = False,
) -> Answer:
    """Convert data sets of faces."""
    from iom.data.formats.conversions import convert

    first, _, second = kind.partition(":")
    settings: dict[str, Any] = {"size": size, "per_shard": per_shard, "workers": workers, "skip_damaged": skip_damaged}
    with goes_on_when_repeated():
        manifest = convert((first, second), source, target, progress=not quiet, **settings)
    what = f"{manifest['images']:,} images"
    if "subjects" in manifest:
        what += f" of {len(manifest['subjects']):,} subjects"
    if "pairs" in manifest:
        what += f", {manifest['pairs']:,} pairs"
    notes, skipped = manifest.get("notes", []), manifest.get("skipped", [])
    lines = [f"wrote {what} to {target}, read back equal", *(f"note: {note}" for note in notes)]
    if skipped:
        lines.append(f"left out {len(skipped)}, first: {skipped[0]}")
    facts: dict[str, Any] = {name: manifest[name] for name in ("images", "pairs") if name in manifest}
    facts |= {"subjects": len(manifest.get("subjects", ())), "notes": notes, "skipped": skipped}
    return Answer({"target": target, **facts}, "\n".join(lines))


@command(
    "check-data",
    epilog="""\
PATH is a folder of subjects, shards, train.rec or .bin.
Exit code 0: nothing found; 1: problems found; 2: wrong use.
""",
    examples=("faces", "shards --json > report.json        # all findings", "faces_emore/train.rec", "lfw.bin"),
)
def check_data(path: Path, size: Size = 112, workers: Workers = 2, quiet: Quiet = False) -> Answer:
    """Report corrupt, repeated, wrongly sized and wrongly labelled images of a data set."""
    from iom.data.check import PROBLEMS, check_data

    count, findings = check_data(path, size=size, workers=workers, progress=not quiet)
    lines = [f"{path}: {count:,} images, {len(findings):,} problems"]
    for kind, meaning in PROBLEMS.items():
        own = [finding for finding in findings if finding.kind == kind]
        if not own:
            continue
        lines.append(f"{kind:13} {len(own):7,}  {meaning}")
        lines += [f"{'':22} {each.place} {each.detail}".rstrip() for each in own[:MAX_SHOWN]]
        if len(own) > MAX_SHOWN:
            lines.append(f"{'':22} ...")
    rows = [{"kind": each.kind, "place": each.place, "detail": each.detail} for each in findings]
    return Answer({"path": path, "images": count, "findings": rows}, "\n".join(lines), not findings)


@command(
    "synthesize",
    epilog="""\
The subjects do not exist: docs/face_model.md. Train nothing on them that is evaluated on LFW.
""",
    examples=("--output runs/faces", "--output runs/faces --subjects 200 --images 8 --seed 7"),
)
def synthesize(
    output: Annotated[Path, output_option("a new or empty folder")],
    subjects: Annotated[int, option("subjects", "N")] = 40,
    images: Annotated[int, option("images of each", "N")] = 6,
    seed: Annotated[int, option("of the faces")] = 1,
    quiet: Quiet = False,
) -> Answer:
    """Write a folder of synthetic faces, a small data set for smoke runs and tests.

    They are aligned faces of 112x112, OUTPUT/<subject>/<image>.png.
    """
    from iom.synthetic import write_folder

    write_folder(output, subjects, images, seed=seed, progress=not quiet)
    count = subjects * images
    return Answer(
        {"output": output, "subjects": subjects, "images": count},
        f"wrote {count} faces of {subjects} synthetic subjects to {output}",
    )


@command("make-face-model", renamed={"--images": "--folder"}, examples=("--folder faces --output face_model.npz",))
def make_face_model(
    folder: Annotated[Path, option("aligned faces DIR/<subject>/<image>", "DIR")],
    output: Annotated[Path, output_option("the .npz file to write", folder=False)],
    min_images: Annotated[int, option("least images a subject", "N")] = 4,
    max_images: Annotated[int, option("most images a subject", "N")] = 8,
    frontal: Annotated[float, option("share of images kept", "SHARE")] = 0.7,
    quiet: Quiet = False,
) -> Answer:
    """Estimate the statistical face model behind the synthetic subjects (docs/face_model.md).

    It takes aligned 112x112 faces and about a minute.
    """
    import numpy as np

    from iom.config import FolderConfig
    from iom.data.folders import scan_folder
    from iom.photos.images import read_images
    from iom.synthetic import fit_face_model, select_frontal

    found = scan_folder(FolderConfig(root=str(folder), min_images=min_images))
    first = np.searchsorted(found.labels, found.labels)  # labels are sorted
    rows = np.flatnonzero(np.arange(len(found)) - first < max_images)
    files = found.files
    images = read_images([files[row] for row in rows], progress=not quiet)
    labels = found.labels[rows]
    kept = select_frontal(images, labels, share=frontal, min_images=min_images)
    model, shares = fit_face_model(images[kept], labels[kept])
    subjects = len(np.unique(labels[kept]))
    model.save(output)
    size = output.stat().st_size
    return Answer(
        {"output": output, "bytes": size, "images": len(kept), "subjects": subjects, **shares},
        f"images {len(kept)}, subjects {subjects}\n"
        f"components {len(model.symmetric)} symmetric ({shares['symmetric_share']:.1%} of variance), "
        f"{len(model.antisymmetric)} antisymmetric ({shares['antisymmetric_share']:.1%})\n"
        f"wrote {output}: {size / 1e6:.2f} MB",
    )
