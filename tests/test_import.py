"""What importing the package costs, and what it offers."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import approxmass

PUBLIC = {
    alias.asname
    for node in ast.parse(Path(approxmass.__file__).with_suffix(".pyi").read_text()).body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}


def fresh(code: str) -> None:
    """Run Python in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_detector_is_imported_without_the_baselines() -> None:
    fresh(
        "import sys, approxmass\n"
        "approxmass.Detector(device='cpu')\n"
        "assert not [name for name in sys.modules if name.startswith('approxmass.baselines')]\n"
    )


def test_the_gpu_is_left_alone_by_work_on_the_cpu() -> None:
    fresh(
        "import numpy as np, torch\n"
        "def touched(*_, **__):\n"
        "    raise SystemExit('the GPU was touched')\n"
        "for name in ('_lazy_init', 'is_bf16_supported', 'get_device_properties'):\n"
        "    setattr(torch.cuda, name, touched)\n"
        "import approxmass\n"
        "images = np.random.default_rng(0).integers(0, 256, (120, 6, 6), np.uint8)\n"
        "for method in ('flow', 'autoencoder'):\n"
        "    detector = approxmass.Detector(method=method, device='cpu', epochs=1)\n"
        "    detector.fit(images).score(images[:5])\n"
        "assert not torch.cuda.is_initialized()\n"
    )


def test_the_public_names_are_those_of_the_stub() -> None:
    assert {"Detector", "open_images", "ApproxMassError", "baselines"} < PUBLIC
    assert set(dir(approxmass)) >= PUBLIC | {"__version__"}
    assert {name for name in dir(approxmass) if not name.startswith("_")} == PUBLIC
    for name in PUBLIC:
        assert getattr(approxmass, name) is not None


def test_help_does_not_wait_for_torch() -> None:
    fresh(
        "import sys\n"
        "from approxmass.cli.main import main\n"
        "sys.argv = ['approxmass', '--help']\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0, end\n"
        "assert 'torch' not in sys.modules\n"
    )


def test_threads_that_wait_do_not_spin_for_long_unless_a_person_says_how() -> None:
    code = (
        "import os, sys\n"
        "before = dict(os.environ)\n"
        "import approxmass\n"
        "assert 'torch' not in sys.modules\n"
        "print({k: v for k, v in os.environ.items() if before.get(k) != v})\n"
    )
    for own, wanted in (
        ({}, "{'GOMP_SPINCOUNT': '1000'}"),
        ({"GOMP_SPINCOUNT": "7"}, "{}"),
        ({"OMP_WAIT_POLICY": "active"}, "{}"),
    ):
        kept = {
            k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
        }
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=kept | own
        )
        assert done.stdout.strip() == wanted
