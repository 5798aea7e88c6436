"""Another threshold for a hasher that is already trained."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from iom.config.loading import load_config
from iom.config.schema import Stage2Config
from iom.data.folders import hold_out, scan_folder
from iom.errors import ConfigError
from iom.models.embedder import Embedder
from iom.models.face_hasher import FaceHasher, load
from iom.models.fusion import open_embedder
from iom.runtime.runtimes import is_artefact
from iom.training.calibration import calibrate
from iom.training.held_out import HeldOutPairs
from iom.training.stage2 import EMBEDDER_FILE


def recalibrate(
    place: Path,
    config: Stage2Config,
    *,
    progress: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> FaceHasher:
    """Calibrate a hasher on the held-out subjects of a configuration; store nothing.

    A backbone that was trained along, `embedder.keras` beside the hasher, is taken instead of the
    configured one; an artefact embeds for itself.

    Args:
        place: Folder of the hasher, or an artefact of `iom deploy`.
        config: Data, embedder, seed and calibration count; the rest is not read.
        progress: Show a progress bar.
        report: Takes what the user should know.

    Raises:
        ConfigError, DataError, WeightsError: As their texts say; another embedder than the one the
            hasher was trained with is refused, and so is an FMR that the pairs cannot show.
    """
    hasher = load(place, opens_embedder=False)
    held_out = hold_out(scan_folder(config.data), config.data)[1]
    pairs = HeldOutPairs.of(held_out, group_separator=config.data.group_separator, seed=config.seed)
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
        pairs,
        embeddings,
        hasher.hash,
        code_length=hasher.code_length,
        alphabet_size=hasher.alphabet_size,
        config=config.calibration,
        seed=config.seed,
    )
    return hasher


def _embedder(place: Path, config: Stage2Config) -> Embedder:
    own = place if is_artefact(place) else place / EMBEDDER_FILE
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
