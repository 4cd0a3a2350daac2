"""The documents say what the committed results say, and their code runs."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))


@pytest.mark.usefixtures("tools")
def test_every_number_of_the_documents_is_that_of_its_json() -> None:
    import write_docs

    for document in write_docs.DOCUMENTS:
        text = (ROOT / document).read_text()
        assert "<!-- demo -->\n<!--" not in text
        assert write_docs.updated(text) == text, f"run `python tools/write_docs.py` for {document}"


@pytest.mark.usefixtures("tools")
def test_changes_that_the_tests_do_not_find_have_their_reasons() -> None:
    import mutants

    listed = tomllib.loads(mutants.LIST.read_text())
    rows = json.loads((ROOT / "results" / "mutants.json").read_text())["rows"]
    assert {row["file"] for row in rows} == set(listed["tests"])
    for row in rows:
        assert mutants.judged(row, listed["reasons"]) == []
    for file, changes in listed["by_hand"].items():
        code = (ROOT / mutants.PACKAGE / file).read_text()
        assert [code.count(change["old"]) for change in changes] == [1] * len(changes), file
    named = [each.get("named", 0) for changes in listed["by_hand"].values() for each in changes]
    assert sorted(filter(None, named)) == list(range(1, 13))


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert code is not None
    # One epoch instead of twenty: this shows that the lines run, not how well it detects.
    short = code[1].replace("Detector()", "Detector(epochs=1)")
    assert short != code[1]
    monkeypatch.chdir(tmp_path)
    printed: list[str] = []
    exec(compile(short, "README.md", "exec"), {"print": printed.append})
    assert re.fullmatch(r"\d+% called, drift p = .*", printed[0])
    assert (tmp_path / "fashion-detector" / "detector.json").exists()


def test_the_python_of_the_baselines_runs() -> None:
    code = re.search(
        r"```python\n(.*?)```", (ROOT / "docs" / "baselines.md").read_text(), re.DOTALL
    )
    assert code is not None
    names: dict[str, Any] = {}
    exec(compile(code[1], "docs/baselines.md", "exec"), names)
    assert names["scores"].shape == (1000,)


def test_every_link_of_the_documents_leads_somewhere() -> None:
    for document in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_figure_of_the_readme_shows_the_numbers_beside_it() -> None:
    figure = ROOT / "docs" / "figures" / "penalty.json"
    facts, drawn = json.loads(figure.read_text()), figure.with_suffix(".svg").read_text()
    for name in ("maximum likelihood", "with the penalty"):
        area = facts[name]["mass"]["auroc"]["value"]
        assert f"{name}: AUROC {area:.3f}" in drawn
