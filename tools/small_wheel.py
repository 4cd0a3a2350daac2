"""Build the wheel approxmass-onnx, install it in an environment of its own, and measure that.

python tools/small_wheel.py results/small_wheel.json
"""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_IMPORT = """
import json, sys, time
start = time.perf_counter()
import approxmass_onnx
seconds = time.perf_counter() - start
from importlib.metadata import distributions
found = sorted(f"{each.name}=={each.version}" for each in distributions())
print(json.dumps({"import_seconds": seconds, "python": sys.version.split()[0], "packages": found}))
"""


def installed(place: Path) -> Path | None:
    """The interpreter of a new environment with the wheel and nothing else.

    None where no index of packages can be reached.
    """
    venv.create(place, with_pip=False)
    python = place / "bin" / "python"
    words = ["-m", "pip", "--python", str(python), "install", "--quiet", "-c", "constraints.txt"]
    done = subprocess.run(
        [sys.executable, *words, str(ROOT / "packages" / "approxmass-onnx")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    if not done.returncode:
        return python
    if not any(each in done.stderr for each in ("No matching distribution", "ConnectionError")):
        raise SystemExit(done.stderr)
    return None


def measured(python: Path) -> dict[str, Any]:
    """Of such an environment size, seconds of the import (the quickest of five), and packages."""
    found = []
    for _ in range(5):
        done = subprocess.run(
            [str(python), "-c", _IMPORT], capture_output=True, text=True, check=True, env={}
        )
        found.append(json.loads(done.stdout))
    files = [path for path in python.parents[1].rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files if not path.is_symlink())
    facts: dict[str, Any] = min(found, key=lambda each: each["import_seconds"])
    facts["packages"] = dict(each.split("==") for each in facts["packages"])
    return {**facts, "MiB": round(size / 2**20, 1)}


def markdown(facts: dict[str, Any]) -> str:
    """What docs/export.md says of it."""
    listed = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    return (
        f"Installed it takes {facts['MiB']:.0f} MiB in all ({listed}; Python {facts['python']}), "
        f"and its import {facts['import_seconds']:.2f} s."
    )


if __name__ == "__main__":
    import tempfile

    from approxmass.storage.atomic import write_json

    with tempfile.TemporaryDirectory() as folder:
        python = installed(Path(folder) / "venv")
        if python is None:
            raise SystemExit("no index of packages can be reached")
        write_json(Path(sys.argv[1]), measured(python))
