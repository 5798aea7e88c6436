"""Stage 2: train a hasher of embeddings. See `python train_stage2.py --help`."""

from iom.cli.train_stage2 import main

if __name__ == "__main__":
    raise SystemExit(main())
