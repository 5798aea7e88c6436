"""Another threshold for a hasher that is already trained."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

from iom._files import atomic_path, check_output
from iom.config.hashing import CalibrationConfig
from iom.config.loading import load_config
from iom.config.schema import Stage2Config
from iom.config.sections import FolderConfig
from iom.data.folders import hold_out, scan_folder
from iom.errors import ConfigError, DataError
from iom.models.artifact import manifest_path, read_manifest
from iom.models.embedder import Embedder, open_embedder
from iom.models.face_hasher import EMBEDDER_FILE, MODEL_FILE, NEW_MODEL_FILE, FaceHasher, load
from iom.models.sessions import is_artifact
from iom.pretrained import HASHER_FILE, checkout, package_folder
from iom.training.calibration import calibrate
from iom.training.held_out import HeldOutPairs


def recalibrate(
    place: Path, config: Stage2Config, *, progress: bool = False, report: Callable[[str], None] = lambda line: None
) -> FaceHasher:
    """Calibrate a hasher on the held-out subjects of a configuration; store nothing.

    A backbone that was trained along, `embedder.keras` beside the hasher, is taken instead of the configured one; an
    artefact embeds for itself.

    Args:
        place: Folder of the hasher, or an artefact of `iom deploy`.
        config: Data, embedder, seed and calibration count; the rest is not read.
        progress: Show a progress bar.
        report: Takes what the user should know.

    Raises:
        ConfigError, DataError, WeightsError: As their texts say; another embedder than the one the hasher was trained
            with is refused, and so is an FMR that the pairs cannot show.
    """
    hasher = load(place, opens_embedder=False)
    held_out = hold_out(scan_folder(config.data), config.data)[1]
    pairs = HeldOutPairs(held_out, group_separator=config.data.group_separator, seed=config.seed)
    pairs.check_resolution(config.calibration.fmr)
    embedder = _embedder(place, config)
    hasher.check_embedder(embedder)
    if _trained_on_other_data(place, config):
        report(
            "note: the data section differs from the one this hasher was trained with; subjects "
            "held out here may have been trained on, which flatters the rates"
        )
    files = held_out.files
    embeddings = embedder.embed_files([files[row] for row in pairs.images], progress=progress)
    hasher.calibration = calibrate(
        pairs, embeddings, hasher.hash, alphabet_size=hasher.alphabet_size, config=config.calibration, seed=config.seed
    )
    return hasher


def recalibrate_on_faces(
    place: Path,
    faces: Path,
    config: CalibrationConfig,
    *,
    weights: str = "",
    seed: int = 1,
    progress: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> FaceHasher:
    """Calibrate a hasher on all subjects of a folder of faces; store nothing.

    The subjects must be others than those it was trained on: one's own people.

    Args:
        place: Folder of the hasher, or an artefact of `iom deploy`.
        faces: `<faces>/<subject>/<image>`, aligned.
        config: FMR, number of keys, draws of the intervals.
        weights: Manifest name or file of the embedder; empty takes the one that was trained along, or the one that the
            hasher names.
        seed: Of keys and draws.
        progress: Show a progress bar.
        report: Takes how many comparisons there are, and what FMR they can show.

    Raises:
        ConfigError, DataError, WeightsError: As their texts say; an FMR that the comparisons cannot show is refused.
    """
    hasher = load(place, weights=weights)
    listed = scan_folder(FolderConfig(root=str(faces), min_images=1))
    pairs = HeldOutPairs(listed, group_separator="", seed=seed)
    mated, others = pairs.all.mated_count, pairs.all.non_mated_count
    drawn = "" if len(pairs.images) == len(listed) else f" (drawn from {len(listed):,})"
    report(
        f"{len(pairs.all.images):,} subjects, {len(pairs.images):,} images{drawn}: {mated:,} mated and "
        f"{others:,} non-mated comparisons; the lowest FMR that they can show is {1 / others:.2g}"
        f"{listed.describe_left_out(1)}"
    )
    pairs.check_resolution(config.fmr)
    files = listed.files
    embeddings = hasher.embed_files([files[row] for row in pairs.images], progress=progress)
    hasher.calibration = calibrate(
        pairs, embeddings, hasher.hash, alphabet_size=hasher.alphabet_size, config=config, seed=seed
    )
    return hasher


def copy_hasher(place: Path, output: Path) -> Path:
    """Copy a hasher byte for byte, so that its fingerprint stays; the metadata last.

    Returns:
        The copy: `output`, or the artefact in it.
    """
    if is_artifact(place):
        names = [*read_manifest(place).files, manifest_path(place).name]
        source, copy = place.parent, output / place.name
    else:
        names = [EMBEDDER_FILE, "config.yaml", NEW_MODEL_FILE, MODEL_FILE, HASHER_FILE]
        source, copy = place, output
    for name in names:
        if (source / name).is_file():
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(output / name) as temporary:
                shutil.copyfile(source / name, temporary)
    return copy


def check_target(place: Path, output: Path | None) -> None:
    """See that a threshold can be stored: in the hasher itself, or in a copy.

    Raises:
        ConfigError: A hasher that came with the package, or lies in its sources, would be changed.
        DataError: The output holds something already, or cannot be written.
    """
    check_output(output or (place.parent if is_artifact(place) else place))
    if output is not None:
        if output.is_dir() and any(output.iterdir()):
            raise DataError(f"{output}: expected a new or empty folder for the copy of {place}")
        return
    root = checkout()
    own = [package_folder(), *([] if root is None else [root / "pre_models"])]
    if any(folder.resolve() in place.resolve().parents for folder in own):
        raise ConfigError(
            f"{place} came with the package and is not changed: store the threshold in a copy with --output DIR"
        )


def _embedder(place: Path, config: Stage2Config) -> Embedder:
    own = place if is_artifact(place) else place / EMBEDDER_FILE
    if not own.exists():
        return open_embedder(config.embedder)
    return open_embedder(dataclasses.replace(config.embedder, weights=str(own), second_weights=""))


def _trained_on_other_data(folder: Path, config: Stage2Config) -> bool:
    stored = folder / "config.yaml"
    if not stored.is_file():
        return False
    try:
        return load_config(Stage2Config, stored).data != config.data
    except ConfigError:  # of an older version: nothing can be said
        return False
