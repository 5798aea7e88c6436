"""Train a backbone (stage 1): the command `iom train-stage1`; see `python train_stage1.py --help`."""

from iom.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main(script="train_stage1.py", command="train-stage1"))
