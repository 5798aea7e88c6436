"""Kill -9 in the middle of training, resume, and compare with the uninterrupted run.

    python -m benchmarks.resume [--kills 10] [--stages 1 2] [--trials 3]

Synthetic faces, the smoke configurations, deterministic mode. First one training of stage 1, in
phases, with accumulated gradients, dropout, half precision and a loss that keeps a state, is killed
--kills times at random steps and resumed each time. Then each trial kills a training of its own
once, at a random moment between its first saved state and its end. In the end every weight and
every optimizer variable is compared with those of the run that was never killed.
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
STEPS_PER_EPOCH = 4
"""60 training images in batches of 15."""
IN_PHASES = (
    "data.holdout=0.25",
    "backbone.arguments={stem: 16, widths: [16, 16], depths: [1, 1], dropout: 0.3}",
    "training={batch_size: 15, checkpoint_steps: 1, precision: mixed_bfloat16, verify_steps: 3}",
    "margin.name=curricularface",
    "phases=[{epochs: 1, train: head,"
    " optimizer: {name: nadam, warmup_epochs: 0}},"
    " {epochs: 4, training: {accumulate: 3},"
    " optimizer: {name: sgd, nesterov: true, schedule: cosine_restarts, restart_epochs: 1}},"
    " {epochs: 2, training: {images_per_subject: 3}, margin: {name: adaface, scale: 16},"
    " optimizer: {name: adamw, schedule: exponential, weight_decay: 0.01}}]",
)


def main(argv: list[str] | None = None) -> int:
    """Run the trials and print one line of JSON with `trials` and `equal`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resume", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=10, help="of one training in phases (default: 10)")
    parser.add_argument("--stages", type=int, nargs="*", choices=(1, 2), default=[1, 2])
    parser.add_argument("--trials", type=int, default=3, help="kills of each stage (default: 3)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments of the kills")
    arguments = parser.parse_args(argv)
    moments = np.random.default_rng(arguments.seed)
    equal = trials = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        faces = folder / "faces"
        _python("-m", "iom", "synthesize", "--output", str(faces), "--subjects", "16",
                "--images", "5", "--seed", "1").communicate()  # fmt: skip
        if arguments.kills:
            same = _killed_many_times(faces, folder, arguments.kills, moments)
            trials += arguments.kills
            equal += arguments.kills * same
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
        [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
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


def _killed_many_times(faces: Path, folder: Path, kills: int, moments: np.random.Generator) -> bool:
    """One training killed at `kills` different steps; whether it ends as the undisturbed one."""
    settings = [text for setting in IN_PHASES for text in ("--set", setting)]
    whole, killed = folder / "phases-whole", folder / "phases-killed"
    _finish(_train(1, faces, folder, whole, *settings))
    steps = _steps(whole)
    targets = sorted(moments.choice(np.arange(1, steps), size=min(kills, steps - 1), replace=False))
    resume: list[str] = []
    for number, target in enumerate(targets, start=1):
        process = _train(1, faces, folder, killed, *settings, *resume)
        while process.poll() is None and _steps(killed) < target:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.1))  # into a step, a verification or a write
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()
        print(f"one training, kill {number} of {kills}: at step {_steps(killed)} of {steps}")
        resume = ["--resume"]
    _finish(_train(1, faces, folder, killed, *settings, *resume))
    same = _final_values_equal(whole, killed)
    print(f"one training, killed {len(targets)} times: {'equal' if same else 'DIFFERENT'}")
    return same


def _steps(output: Path) -> int:
    """Steps of the whole training that the saved state has behind it."""
    try:
        with np.load(output / "state.npz") as stored:
            header = json.loads(str(stored["header"]))
    except (OSError, ValueError):
        return 0
    return header["epoch"] * STEPS_PER_EPOCH + header["step"]


def _final_values_equal(first: Path, second: Path) -> bool:
    with np.load(first / "state.npz") as a, np.load(second / "state.npz") as b:
        return a.files == b.files and all(np.array_equal(a[name], b[name]) for name in a.files)


if __name__ == "__main__":
    raise SystemExit(main())
