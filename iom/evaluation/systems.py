"""The code systems that an evaluation can name: every data-agnostic baseline, and `learned`."""

from pathlib import Path

from iom.baselines import BASELINES
from iom.config.schema import EvaluateConfig
from iom.errors import ConfigError, WeightsError
from iom.evaluation.scores import FLOAT, CodeSystem
from iom.lookup import lookup
from iom.models.embedder import Embedder
from iom.models.hasher import METADATA_FILE, Hasher

LEARNED = "learned"


def check_systems(config: EvaluateConfig) -> None:
    """Refuse what is wrong with the named systems before anything is loaded.

    Raises:
        ConfigError: No system, a system named twice, or an unknown one.
        WeightsError: `learned` is named and there is no trained hasher.
    """
    names = config.scenario.systems
    if not names or len(set(names)) < len(names):
        raise ConfigError(
            f"scenario.systems: expected distinct systems, at least one, received {list(names)}"
        )
    for name in names:
        lookup({FLOAT: None, LEARNED: None, **dict.fromkeys(BASELINES)}, name, "system")
    if LEARNED in names and not (config.hasher and Path(config.hasher, METADATA_FILE).is_file()):
        place = f"in '{config.hasher}'" if config.hasher else "named ('hasher' is empty)"
        others = ", ".join(name for name in names if name != LEARNED) or FLOAT
        raise WeightsError(
            f"no trained hasher {place}; train one with python train_stage2.py --config "
            "configs/stage2/base.yaml --output DIR and pass --set hasher=DIR, or leave it out with "
            f"--set scenario.systems='[{others}]'"
        )


def load_code_systems(config: EvaluateConfig, embedder: Embedder) -> dict[str, CodeSystem]:
    """The code systems that `config.scenario.systems` names, made for this embedder.

    Raises:
        ConfigError: A baseline cannot have the code shape of `config.code`.
        WeightsError: The hasher is missing or damaged, or belongs to another embedder.
    """
    systems = {}
    for name in config.scenario.systems:
        if name == LEARNED:
            systems[name] = _learned(config, embedder)
        elif name != FLOAT:
            baseline = lookup(BASELINES, name, "baseline")(
                embedder.embedding_size, config.code, config.seed
            )
            systems[name] = CodeSystem(
                name, baseline.code_length, baseline.alphabet_size, baseline.hash
            )
    return systems


def _learned(config: EvaluateConfig, embedder: Embedder) -> CodeSystem:
    hasher = Hasher.load(Path(config.hasher))
    hasher.check_embedder(embedder)
    threshold = hasher.calibration.threshold if hasher.calibration else None
    return CodeSystem(LEARNED, hasher.code_length, hasher.alphabet_size, hasher.hash, threshold)
