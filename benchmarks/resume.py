"""Kill -9 in the middle of training, resume, and compare with the uninterrupted run.

    python -m benchmarks.resume [--stages 1 2] [--trials 3]

Faces of nobody, the smoke configurations, deterministic mode. Each trial kills the training at a
random moment between its first saved state and its end, resumes it, and compares every weight and
every optimizer variable with those of the run that was never killed.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]


def main(argv: list[str] | None = None) -> int:
    """Run the trials and print one line of JSON with `trials` and `equal`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.resume", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--stages", type=int, nargs="+", choices=(1, 2), default=[1, 2])
    parser.add_argument("--trials", type=int, default=3, help="kills of each stage (default: 3)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments of the kills")
    arguments = parser.parse_args(argv)
    moments = np.random.default_rng(arguments.seed)
    equal = trials = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        faces = folder / "faces"
        _python("-m", "iom.cli.synthesize", "--output", str(faces), "--subjects", "16",
                "--images", "5", "--seed", "1").communicate()  # fmt: skip
        for stage in arguments.stages:
            whole = folder / f"stage{stage}-whole"
            seconds, saved = _uninterrupted(stage, faces, folder, whole)
            print(f"stage {stage}: {seconds:.0f} s, {saved:.0f} s of them after the first state")
            for trial in range(arguments.trials):
                killed = folder / f"stage{stage}-killed-{trial}"
                _kill_once(stage, faces, folder, killed, after=moments.uniform(0, 0.9 * saved))
                same = _final_values_equal(whole, killed)
                print(f"stage {stage}, trial {trial + 1}: {'equal' if same else 'DIFFERENT'}")
                trials += 1
                equal += same
    print(json.dumps({"trials": trials, "equal": equal}))
    return 0 if equal == trials else 1


def _python(*arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def _train(stage: int, faces: Path, folder: Path, output: Path, *more: str) -> subprocess.Popen:
    settings = ["deterministic=true", f"data.root={faces}"]
    if stage == 2:
        settings.append(f"embedder.weights={folder / 'stage1-whole' / 'best.keras'}")
        settings.append(f"embedder.cache={folder / 'cache'}")
    return _python(
        f"train_stage{stage}.py",
        "--config", f"configs/smoke/stage{stage}.yaml",
        "--output", str(output),
        *(text for setting in settings for text in ("--set", setting)),
        *more,
    )  # fmt: skip


def _finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"error: training failed: {errors.decode(errors='replace')[-2000:]}")


def _uninterrupted(stage: int, faces: Path, folder: Path, output: Path) -> tuple[float, float]:
    """Train to the end; the seconds it took, and those after the first saved state."""
    if stage == 2 and not (folder / "stage1-whole").exists():
        _finish(_train(1, faces, folder, folder / "stage1-whole"))
    started = time.monotonic()
    process = _train(stage, faces, folder, output)
    _wait_for_state(process, output)
    first = time.monotonic()
    _finish(process)
    return time.monotonic() - started, time.monotonic() - first


def _wait_for_state(process: subprocess.Popen, output: Path) -> None:
    while not (output / "state.npz").exists() and process.poll() is None:
        time.sleep(0.01)


def _kill_once(stage: int, faces: Path, folder: Path, output: Path, *, after: float) -> None:
    process = _train(stage, faces, folder, output)
    _wait_for_state(process, output)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(after)
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
    process.communicate()
    _finish(_train(stage, faces, folder, output, "--resume"))


def _final_values_equal(first: Path, second: Path) -> bool:
    with np.load(first / "state.npz") as a, np.load(second / "state.npz") as b:
        return a.files == b.files and all(np.array_equal(a[name], b[name]) for name in a.files)


if __name__ == "__main__":
    raise SystemExit(main())
