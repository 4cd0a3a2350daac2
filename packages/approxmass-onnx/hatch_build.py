"""Takes into the wheel what of the library scores an exported detector, as a package of its own.

The modules are found by what they import, from a few on; nothing of them is changed but the
name of the package in examples.
"""

__all__ = ["CustomBuildHook"]

import ast
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_LIBRARY = "approxmass"


class CustomBuildHook(BuildHookInterface):
    """See above; a source distribution has the modules already."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Find and place the modules."""
        library = Path(self.root).parents[1] / "src" / _LIBRARY
        if not library.is_dir():
            return
        package = f"{_LIBRARY}_onnx"
        below = "src/" if self.target_name == "sdist" else ""
        self._kept = Path(tempfile.mkdtemp())
        for file in sorted(_needed(library, self.config["entries"], self.config["allowed"])):
            copy = self._kept / file
            copy.parent.mkdir(parents=True, exist_ok=True)
            text = (library / file).read_text(encoding="utf-8")
            text = re.sub(rf"\b(from|import) {_LIBRARY}\b", rf"\1 {package}", text)
            copy.write_text(text, encoding="utf-8")
            build_data["force_include"][str(copy)] = f"{below}{package}/{file}"
        licence = library.parents[1] / "LICENSE"
        build_data["force_include"][str(licence)] = f"{below}{package}/LICENSE"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Take the copies away."""
        shutil.rmtree(getattr(self, "_kept", ""), ignore_errors=True)


def _needed(library: Path, entries: list[str], allowed: list[str]) -> set[str]:
    """Files below the library that the entries import, at once or later, and these in turn."""
    found: set[str] = set()
    waiting = [*entries]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        waiting += [f"{up}/__init__.py" for up in Path(file).parents if up != Path(".")]
        tree = ast.parse((library / file).read_text(encoding="utf-8"))
        others = {
            name for name in _others(tree) if name not in (*allowed, *sys.stdlib_module_names)
        }
        if others:
            raise ValueError(f"{file} imports {', '.join(sorted(others))}, which the wheel has not")
        waiting += _imported(tree, Path(file).parent, library)
    return found


def _others(tree: ast.Module) -> Iterator[str]:
    """What a module imports from outside as it is imported."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).split(".")[0]


def _imported(tree: ast.Module, here: Path, library: Path) -> Iterator[str]:
    """Files that a module in a folder imports from the library, at once or later."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        start = [here, *here.parents][node.level - 1]
        base = start / (node.module or "").replace(".", "/")
        for path in (base, *(base / alias.name for alias in node.names)):
            for file in (path.with_suffix(".py"), path / "__init__.py"):
                if (library / file).is_file() and file != Path("__init__.py"):
                    yield file.as_posix()
