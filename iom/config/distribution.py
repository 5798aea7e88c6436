"""Section `distribution`: training on several devices of one machine, or on several machines."""

import dataclasses

from iom.config.checks import require

NONE, MIRRORED, MULTI_WORKER = "none", "mirrored", "multi_worker"


@dataclasses.dataclass(frozen=True)
class DistributionConfig:
    """Data parallel: every device takes its share of each batch; the result is that of one."""

    kind: str = NONE
    """`none`; `mirrored`: the devices of this machine; `multi_worker`: several machines."""
    devices: int = 0
    """Of each machine. 0: all its accelerators, or one CPU. Without accelerators the CPU is split
    into so many devices (`mirrored`)."""
    workers: tuple[str, ...] = ()
    """`multi_worker`: `host:port` of every machine, the chief first, the same list on each. Empty:
    taken from the environment variable TF_CONFIG, as is the index."""
    index: int = -1
    """`multi_worker`: which of `workers` this machine is; `--set distribution.index=1`."""

    def __post_init__(self) -> None:
        kinds = (NONE, MIRRORED, MULTI_WORKER)
        require(self.kind in kinds, "distribution.kind", f"one of {kinds}", self.kind)
        require(self.devices >= 0, "distribution.devices", "at least 0", self.devices)
        require(
            not self.workers or self.kind == MULTI_WORKER,
            "distribution.workers",
            f"none without kind: {MULTI_WORKER}",
            self.workers,
        )
        for worker in self.workers:
            require(
                worker.rpartition(":")[2].isdigit() and bool(worker.rpartition(":")[0]),
                "distribution.workers",
                "host:port for each machine",
                worker,
            )
        require(
            not self.workers or -1 <= self.index < len(self.workers),
            "distribution.index",
            f"0 to {len(self.workers) - 1}, the place of this machine among distribution.workers",
            self.index,
        )
