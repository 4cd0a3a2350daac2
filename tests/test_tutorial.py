"""The tutorial as a new user would follow it: every block, in order, in one shell."""

import csv
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

TUTORIAL = Path(__file__).parents[1] / "docs" / "tutorial.md"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def script(port: int) -> str:
    lines = ["set -euo pipefail"]
    for kind, code in re.findall(r"```(\w+)\n(.*?)```", TUTORIAL.read_text(), re.DOTALL):
        if kind == "python":
            lines += ["python - <<'END'", code.rstrip(), "END"]
            continue
        for line in code.replace("8000", str(port)).splitlines():
            lines += [f"printf '\\n%s\\n' '$ {line}'", line]
            if line.endswith("&"):  # what a person sees of it
                lines.append(
                    f"until curl -s http://127.0.0.1:{port}/healthz > /dev/null; do sleep 0.2; done"
                )
    return "\n".join(lines)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_the_tutorial(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", script(free_port())],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "report.html").stat().st_size > 500_000
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 300
    assert sum(row["is_outlier"] == "true" for row in rows) > 200
    for picture in [*(tmp_path / "why").iterdir(), tmp_path / "why.png"]:
        Image.open(picture).verify()

    answers = dict(re.findall(r"^\$ (curl.*)\n(\{.*\})$", done.stdout, re.M))
    scored, drift, health = (json.loads(answer) for answer in answers.values())
    assert [each["name"] for each in scored["results"]] == ["0000.png", "0000.png"]
    assert scored["results"][0]["is_outlier"]
    assert scored["results"][0]["p_value"] == float(rows[0]["p_value"])
    assert drift["group_p_value"] < 0.05
    assert health["status"] == "ok"

    inside, outside = (
        list(csv.DictReader((tmp_path / f"{name}.csv").open())) for name in ("watch", "watch-out")
    )
    assert (len(inside), len(outside)) == (500, 300)
    assert not any(row["alarm"] == "true" for row in inside)
    assert any(row["alarm"] == "true" for row in outside)
