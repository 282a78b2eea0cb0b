"""The command line as a user has it: words, formats, exit codes, and what is never imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ftrun.checks.testing import sft_chat, sft_full

HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "mlflow", "pandas", "pyarrow", "numpy")


def ftrun(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "ftrun", *(str(word) for word in words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False, timeout=300)


def test_there_is_no_package_at_the_root_of_the_namespace() -> None:
    root = Path(__file__).parents[2]
    assert not [*root.glob("*/ftrun/__init__.py")]


def test_validate_tells_a_good_recipe_from_a_bad_one(tmp_path: Path) -> None:
    path = sft_full(tmp_path).write()
    assert ftrun("validate", path).returncode == 0
    bad = tmp_path / "bad.yaml"
    bad.write_text(path.read_text().replace("learning_rate", "lerning_rate"))
    result = ftrun("validate", path, bad)
    assert result.returncode == 2
    assert "lerning_rate" in result.stdout
    assert "learning_rate" in result.stdout
    assert "Traceback" not in result.stderr


def test_a_recipe_that_would_waste_the_run_is_not_ready(tmp_path: Path) -> None:
    path = sft_full(tmp_path).write()
    result = ftrun("validate", path, "--set", "training.learning_rate=3.0")
    assert result.returncode == 3
    assert "TRAIN001" in result.stdout
    ignored = ftrun("validate", path, "--set", "training.learning_rate=3.0", "--ignore", "train001")
    assert ignored.returncode == 0
    assert "TRAIN001" in ignored.stdout


def test_json_is_the_documented_contract(tmp_path: Path) -> None:
    path = sft_full(tmp_path).write()
    one = json.loads(ftrun("validate", path, "--format", "json").stdout)
    stage = {"pipeline", "pipeline_stage"}
    assert set(one) == stage | {
        "recipe",
        "method",
        "ok",
        "stage",
        "findings",
        "checks",
        "facts",
        "seconds",
    }
    assert one["pipeline"] is one["pipeline_stage"] is None
    assert one["ok"] and one["method"] == "sft" and one["stage"] == "recipe"
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: 1\nmethod: sft\n")
    two = json.loads(ftrun("validate", path, bad, "--format", "json").stdout)
    assert [report["ok"] for report in two] == [True, False]
    finding = two[1]["findings"][0]
    assert set(finding) == {"id", "severity", "message", "where", "evidence", "fix", "patch", "ignored"}
    assert set(finding["where"]) == {"file", "line", "column", "key", "row"}


def test_sarif_and_github_name_file_and_line(tmp_path: Path) -> None:
    path = sft_full(tmp_path).write()
    path.write_text(path.read_text().replace("path: tiny", "path: [1]"))
    sarif = json.loads(ftrun("validate", path, "--format", "sarif").stdout)
    (result,) = sarif["runs"][0]["results"]
    assert result["level"] == "error"
    assert result["locations"][0]["physicalLocation"]["region"]["startLine"] > 1
    annotation = ftrun("validate", path, "--format", "github").stdout
    assert annotation.startswith("::error file=") and ",line=" in annotation


@pytest.mark.parametrize(
    "words",
    [
        ("validate", "recipe.yaml"),
        ("checks",),
        ("explain", "DATA003"),
        ("schema",),
        ("--help",),
        ("launch", "recipe.yaml", "--slurm"),
    ],
)
def test_light_commands_import_nothing_heavy(words: tuple[str, ...], tmp_path: Path) -> None:
    sft_full(tmp_path).write()
    code = (
        "import sys; from ftrun.runner.commands import app\n"
        f"try: app({list(words)!r})\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not loaded, loaded"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_init_writes_a_recipe_that_is_valid_at_once(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("question,answer\nWhat is two and two?,Four.\nAnd three?,Six.\n")
    assert ftrun("init", "sft", "rows.csv", cwd=tmp_path).returncode == 0
    text = (tmp_path / "sft.yaml").read_text()
    assert 'prompt: "question"' in text and 'completion: "answer"' in text
    assert ftrun("validate", "sft.yaml", cwd=tmp_path).returncode == 0
    again = ftrun("init", "sft", "rows.csv", cwd=tmp_path)
    assert again.returncode == 1 and "is there already" in again.stderr
    (tmp_path / "empty").mkdir()
    assert ftrun("init", "sft", cwd=tmp_path / "empty").returncode == 0
    assert ftrun("validate", "sft.yaml", cwd=tmp_path / "empty").returncode == 0


def test_mistakes_of_the_user_are_one_line(tmp_path: Path) -> None:
    for words in (("explain", "DATA999"), ("init", "sftt"), ("init", "sft", "nowhere.jsonl")):
        result = ftrun(*words, cwd=tmp_path)
        assert result.returncode == 1
        assert "Traceback" not in result.stderr and result.stderr.startswith("ftrun: ")
    result = ftrun("validate", sft_full(tmp_path).write(), "--ignore", "DATA999")
    assert result.returncode == 2 and "there is no check DATA999" in " ".join(result.stderr.split())
    assert ftrun("vlidate", cwd=tmp_path).returncode == 2
    assert ftrun("nowhere.yaml", cwd=tmp_path).returncode == 2


def test_preview_marks_the_trained_tokens(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.rows = world.rows[:1]
    result = ftrun("preview", world.write())
    assert result.returncode == 0
    trained = "".join(part.partition("»")[0] for part in result.stdout.split("«")[2:])
    assert trained.replace("·", " ") == "The lamp in room 0 is red.⟦<|im_end|>⟧"


def test_preflight_shows_the_checklist(tmp_path: Path) -> None:
    path = sft_chat(tmp_path).write()
    result = ftrun("preflight", path)
    assert result.returncode == 0, result.stdout
    for heading in ("Environment", "Data", "Model", "Training"):
        assert f"\n{heading}\n" in f"\n{result.stdout}"
    assert "32 rows read − 8 held out = 24 kept" in result.stdout


def test_a_word_longer_than_a_name_of_a_file_is_no_command(tmp_path: Path) -> None:
    result = ftrun("x" * 5000, cwd=tmp_path)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr and "No such command" in result.stderr


@pytest.mark.parametrize(
    "words", [("init", "sft", "-o", "nowhere/sft.yaml"), ("sync", "x" * 300)], ids=["init", "sync"]
)
def test_a_path_that_the_system_refuses_is_one_line(words: tuple[str, ...], tmp_path: Path) -> None:
    result = ftrun(*words, cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith(f"ftrun: {words[-1][:7]}")
