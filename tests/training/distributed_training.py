"""One stage 1 training in a process of its own, for `test_distribution.py`."""

import dataclasses
import sys
from pathlib import Path

from iom.config.loading import load_config
from iom.config.schema import Stage1Config


def main(faces: str, output: str, *overrides: str) -> None:
    resume = "--resume" in overrides
    settings = [item for item in overrides if item != "--resume"]
    root = Path(__file__).parents[2]
    config = load_config(
        Stage1Config,
        root / "configs" / "smoke" / "stage1.yaml",
        overrides=[
            f"data.root={faces}", "training.epochs=2", "training.batch_size=12",
            # Adam would turn the rounding of gradients that are zero into whole steps.
            "optimizer.name=sgd", "optimizer.learning_rate=0.001", *settings,
        ],
    )  # fmt: skip
    small = {"stem": 16, "widths": [16], "depths": [1]}
    backbone = dataclasses.replace(config.backbone, embedding_size=16, arguments=small)

    from iom.training.backbone import train_backbone

    config = dataclasses.replace(config, backbone=backbone)
    train_backbone(config, Path(output), progress=False, resume=resume)


if __name__ == "__main__":
    main(*sys.argv[1:])
