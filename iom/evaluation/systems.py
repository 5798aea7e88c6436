"""The systems that an evaluation can name: every data-agnostic baseline, and trained hashers."""

import dataclasses
from collections.abc import Sequence

from iom._registry import COMPARISONS, lookup
from iom.baselines import BASELINES
from iom.baselines.protection import Protection
from iom.codes.asymmetric import ASYMMETRIC
from iom.config import CodeConfig, EvaluateConfig
from iom.errors import ConfigError, WeightsError
from iom.evaluation.scores import FLOAT, CodeSystem, asymmetric_name
from iom.models.artifact import is_artifact, manifest_path
from iom.models.embedder import Embedder
from iom.models.face_hasher import FaceHasher, load
from iom.pretrained import HASHER_FILE, hasher_path

LEARNED = "learned"


def hasher_folders(config: EvaluateConfig) -> dict[str, str]:
    """Folder of each trained hasher by the name of its system: `hasher` is that of `learned`."""
    folders = dict(config.hashers)
    taken = {FLOAT, *BASELINES, *([LEARNED] if config.hasher else [])}
    for name, folder in folders.items():
        if name in taken:
            raise ConfigError(f"hashers.{name}: this name means another system; choose another")
        if name.endswith(asymmetric_name("")):
            raise ConfigError(f"hashers.{name}: names of this end are of rows of asymmetric comparison; choose another")
        if not isinstance(folder, str) or not folder:
            raise ConfigError(f"hashers.{name}: expected a folder, received {folder!r}")
    return {LEARNED: config.hasher, **folders}


def check_systems(config: EvaluateConfig) -> None:
    """Refuse unknown or repeated systems and missing hashers before anything is loaded."""
    names = config.scenario.systems
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"scenario.systems: expected distinct systems, at least one, received {list(names)}")
    folders = hasher_folders(config)
    for name in names:
        lookup({FLOAT: None, **dict.fromkeys(folders), **dict.fromkeys(BASELINES)}, name, "system")
    for name in names:
        if name in folders:
            _check_folder(name, folders[name], [other for other in names if other != name])


def load_code_systems(config: EvaluateConfig, embedder: Embedder) -> dict[str, CodeSystem]:
    """The code systems that `config.scenario.systems` names, made for this embedder."""
    folders = hasher_folders(config)
    asked = config.scenario.comparisons
    systems: dict[str, CodeSystem] = {}
    for name in config.scenario.systems:
        if name in folders:
            found = trained_system(name, folders[name], embedder)
        elif name != FLOAT:
            found = baseline_system(name, embedder.embedding_size, config.code, config.seed)
        else:
            continue
        able = comparisons_of(found)
        usual = able if name in folders else able[:1]
        chosen = [each for each in asked or usual if each in able] or able[:1]
        rows = [found if each == found.comparison else asymmetric_system(found) for each in chosen]
        systems |= {row.name: row for row in rows}
    return systems


def baseline_system(name: str, embedding_size: int, code: CodeConfig, seed: int = 1) -> CodeSystem:
    """A data-agnostic protection of `BASELINES`."""
    made = lookup(BASELINES, name, "baseline")(embedding_size, code, seed)
    return CodeSystem(name, made.code_length, made.alphabet_size, made.hash, None, made.comparator, made)


def trained_system(name: str, folder: str, embedder: Embedder | None = None) -> CodeSystem:
    """A trained hasher, compared by symbols, checked against the embedder unless that is `None`.

    It has its calibrated threshold, if that is of symbols.
    """
    hasher = load(folder, opens_embedder=False)
    if embedder is not None:
        hasher.check_embedder(embedder)
    return _compared(CodeSystem(name, hasher.code_length, hasher.alphabet_size, hasher.hash, made_of=hasher))


def comparisons_of(system: CodeSystem) -> tuple[str, ...]:
    """Comparisons of a system's templates: "symbols", or its own, and "asymmetric" where it is linear up to lengths."""
    made = system.made_of
    linear = made is not None and (not isinstance(made, Protection) or made.public_projection is not None)
    return COMPARISONS if linear else COMPARISONS[:1]


def asymmetric_system(system: CodeSystem) -> CodeSystem:
    """A system whose codes are compared with the keyed rows of probes."""
    if system.made_of is None:
        raise ConfigError(f"{system.name}: nothing is known of it that gives keyed rows")
    comparator = system.made_of.comparator_of(ASYMMETRIC)
    name = asymmetric_name(system.name)
    return _compared(dataclasses.replace(system, name=name, own_comparator=comparator, comparison=ASYMMETRIC))


def _compared(system: CodeSystem) -> CodeSystem:
    """A system with the calibration of its hasher, where that is of its comparison."""
    made = system.made_of
    calibration = made.calibration if isinstance(made, FaceHasher) else None
    fits = calibration is not None and calibration.comparison == system.comparison
    return dataclasses.replace(system, calibration=calibration if fits else None)


def _check_folder(name: str, folder: str, others: Sequence[str]) -> None:
    setting = "hasher" if name == LEARNED else f"hashers.{name}"
    reason = f"no trained hasher in '{folder}'" if folder else f"no trained hasher named ('{setting}' is empty)"
    if folder:
        try:
            path = hasher_path(folder)
        except WeightsError as error:
            reason = f"{setting}: {error}"
        else:
            if (path / HASHER_FILE).is_file() or (is_artifact(path) and manifest_path(path).is_file()):
                return
    raise WeightsError(
        f"{reason}; train one with iom train-stage2 --config stage2/base --output DIR and pass "
        f"--set {setting}=DIR, or leave it out with "
        f"--set scenario.systems='[{', '.join(others) or FLOAT}]'"
    )
