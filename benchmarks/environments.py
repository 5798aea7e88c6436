"""Environments of programs that others wrote, made in .cache/ on the first run."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path


def environment(folder: Path, python: str, *installs: Sequence[str]) -> Path | None:
    """Python of the environment in `folder`, made anew where the arguments of its `pip install`s changed.

    What pip cannot install is printed, and `None` returned.
    """
    ready, own = folder / "ready", folder / "bin" / "python"
    wanted = "\n".join(" ".join(each) for each in installs)
    if ready.is_file() and ready.read_text(encoding="utf-8") == wanted:
        return own
    if not python or not Path(python).is_file():
        print(f"skipped {folder.name}: no Python for it was found; name one (see --help)")
        return None
    print(f"making an environment in {folder}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([python, "-m", "venv", str(folder)], check=True)
    for arguments in installs:
        command = [str(own), "-m", "pip", "install", "-q", *arguments]
        if subprocess.run(command, stderr=subprocess.DEVNULL).returncode:
            print(f"skipped {folder.name}: pip cannot install {' '.join(arguments)} under {python}")
            return None
    ready.write_text(wanted, encoding="utf-8")
    return own
