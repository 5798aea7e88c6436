"""A training in phases: each changes the loss, the optimizer or what is trained."""

import dataclasses
from typing import Any

from iom.config.checks import require

HEAD, ALL = "head", "all"


@dataclasses.dataclass(frozen=True)
class PhaseConfig:
    """One phase. Sections hold only what differs from the sections of the whole configuration.

    The weights go over from phase to phase; a head of another shape starts anew. Optimizer and
    schedule start anew with each phase, with the warm-up of its own optimizer section.
    """

    epochs: int = 1
    train: str = ALL
    """`all`, or `head`: the backbone is frozen, its batch norms included."""
    margin: dict[str, Any] = dataclasses.field(default_factory=dict)
    """With another `name` than that of the whole configuration, nothing else of that is taken over:
    margin and scale of one loss mean something else to another."""
    center: dict[str, Any] = dataclasses.field(default_factory=dict)
    triplet: dict[str, Any] = dataclasses.field(default_factory=dict)
    distillation: dict[str, Any] = dataclasses.field(default_factory=dict)
    """`weight` only."""
    optimizer: dict[str, Any] = dataclasses.field(default_factory=dict)
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    """`batch_size`, `images_per_subject` and `accumulate` only."""

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "phases: epochs", "at least 1", self.epochs)
        require(self.train in (ALL, HEAD), "phases: train", f"'{ALL}' or '{HEAD}'", self.train)
        for section, allowed in ALLOWED.items():
            other = sorted(set(getattr(self, section)) - allowed)
            require(
                not other,
                f"phases: {section}",
                f"settings of {', '.join(sorted(allowed))}, which may differ between phases",
                other,
            )

    @property
    def changes(self) -> dict[str, Any]:
        """The sections that differ, as a configuration file would give them."""
        sections = {
            field.name: dict(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name not in ("epochs", "train")
        }
        sections["training"]["epochs"] = self.epochs
        return sections


ALLOWED = {"distillation": {"weight"}, "training": {"batch_size", "images_per_subject", "accumulate"}}
"""Of sections whose other settings belong to the whole run."""
