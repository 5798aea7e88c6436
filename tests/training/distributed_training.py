"""One stage 1 training in a process of its own, for `test_distribution.py`."""

import sys
from pathlib import Path

from iom.config import Stage1Config, load_config


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
    backbone = config.backbone.replace(embedding_size=16, arguments=small)

    from iom.training.backbone import train_backbone

    config = config.replace(backbone=backbone)
    train_backbone(config, Path(output), progress=False, resume=resume)


if __name__ == "__main__":
    main(*sys.argv[1:])
