"""Stage 1: train an embedding network. See `python train_stage1.py --help`."""

from iom.cli.train_stage1 import main

if __name__ == "__main__":
    raise SystemExit(main())
