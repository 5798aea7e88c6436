"""schemathesis on the service's OpenAPI description, in an environment of its own."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.service_client import ROOT, Service

PACKAGE = "schemathesis==4.32.5"
PLACE = ROOT / ".cache" / "schemathesis"


def run_schemathesis(service: Service, folder: Path, token: str, seconds: int) -> tuple[int, list[str]]:
    """Number of requests that it made of the description, and what it found wrong with answers."""
    config, found = folder / "schemathesis.toml", folder / "schemathesis.json"
    config.write_text('[parameters]\napplication = "door"\n')
    done = subprocess.run(
        [
            *(str(_program()), "--config-file", str(config), "run"),
            f"http://{service.host}:{service.port}/openapi.json",
            *("-H", f"Authorization: Bearer {token}", "--phases", "examples,coverage,fuzzing"),
            # That bytes are an image of a face, no schema can say: a refusal is no failure.
            *("--checks", "all", "--exclude-checks", "positive_data_acceptance,ignored_auth"),
            *("--max-time", str(seconds), "--continue-on-failure", "--generation-database", "none"),
            *("--report", "json", "--report-json-path", str(found), "--no-color"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    if not found.exists():
        raise SystemExit(f"schemathesis failed:\n{done.stdout[-3000:]}\n{done.stderr[-2000:]}")
    told = json.loads(found.read_text())
    failures = [json.dumps(each) for each in [*told["failures"], *told["errors"]]]
    return int(told["test_cases"]["generated"]), failures


def _program() -> Path:
    program = PLACE / "bin" / "schemathesis"
    if not program.exists():
        print(f"making {PLACE.relative_to(ROOT)} with {PACKAGE}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(PLACE)], check=True)
        pip = [str(PLACE / "bin" / "python"), "-m", "pip", "install", "--quiet", PACKAGE]
        subprocess.run(pip, check=True)
    return program
