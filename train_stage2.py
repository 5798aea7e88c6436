"""Train a hasher (stage 2): the command `iom train-stage2`; see `python train_stage2.py --help`."""

from iom.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main(script="train_stage2.py", command="train-stage2"))
