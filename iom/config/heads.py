"""What stands on the embedding in stage 1: classification, centres, triplets; a weight each."""

import dataclasses
from typing import Any

from iom.config.checks import require


@dataclasses.dataclass(frozen=True)
class MarginConfig:
    """Softmax over the training subjects, with or without a margin (`iom/nn/losses/margin/margin.py`)."""

    name: str = "arcface"
    """`softmax`, `normalised_softmax`, `arcface`, `cosface`, `sphereface`, `combined`,
    `curricularface`, `magface` or `adaface`."""
    margin: float | None = None
    """Main margin of the loss; none: the default of its paper."""
    scale: float | None = None
    """Of the cosines; none: the default of the loss, 64."""
    label_smoothing: float = 0.0
    """Share of the target that is spread over all subjects."""
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What only that loss has, such as `{easing: 0}` of `sphereface`."""
    sub_centers: int = 1
    """Centres of each subject, the nearest counts; 3 with `arcface`: sub-center ArcFace."""
    sample: float = 1.0
    """Share of the subjects that a step compares with; below 1 for very many subjects."""
    weight: float = 1.0
    """Weight of this loss; 0 trains without it."""

    def __post_init__(self) -> None:
        require(self.scale is None or self.scale > 0, "margin.scale", "a positive number", self.scale)
        require(0 <= self.label_smoothing < 1, "margin.label_smoothing", "0 <= share < 1", self.label_smoothing)
        require(self.sub_centers >= 1, "margin.sub_centers", "at least 1", self.sub_centers)
        require(0 < self.sample <= 1, "margin.sample", "0 < share <= 1", self.sample)
        require(self.sample == 1 or self.sub_centers == 1, "margin.sample", "1 with several sub-centers", self.sample)
        require(self.weight >= 0, "margin.weight", "at least 0", self.weight)


@dataclasses.dataclass(frozen=True)
class CenterConfig:
    """Center loss: each embedding is drawn to a learned centre of its subject."""

    weight: float = 0.0
    """0 trains without it; the paper's is 0.003."""

    def __post_init__(self) -> None:
        require(self.weight >= 0, "center.weight", "at least 0", self.weight)


@dataclasses.dataclass(frozen=True)
class TripletConfig:
    """Triplet loss on the embeddings of a batch; set `training.images_per_subject` with it."""

    weight: float = 0.0
    """0 trains without it."""
    margin: float = 0.3
    mining: str = "batch_hard"
    """`batch_hard`, `batch_all` or `semi_hard`."""
    distance: str = "cosine"
    """`cosine` or `euclidean`."""

    def __post_init__(self) -> None:
        require(self.weight >= 0, "triplet.weight", "at least 0", self.weight)
        require(self.margin >= 0, "triplet.margin", "at least 0", self.margin)
