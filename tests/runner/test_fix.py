"""`--fix`: what patches mend, what they leave, and how the file is replaced."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from ftrun.checks.catalogue import load_checks
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.report import Report, Result
from ftrun.checks.stages import AtRecipe
from ftrun.checks.testing import HEALTHY, sft_full
from ftrun.runner.fix import fix_recipe, replace_text
from ftrun.runner.preflight import ascend
from ftrun.runner.validate import preflight_recipe, validate_recipes
from ftrun.schemas.errors import FtrunError
from ftrun.schemas.load import load_recipe

RECIPE = """\
# the recipe of a test
name: fixed
method: sft
model: {path: tiny}   # built in
data:
  train:
    - path: train.jsonl   # question, answer

training:
  learning_rate: 5.0e-5
  warmup_steps: 0.1
  max_grad_norm: 0.0   # clip nothing
  eval_strategy: "epoch"
  save_strategy: epoch
"""
FIXED = (
    RECIPE.replace(
        "# question, answer\n", "# question, answer\n      columns: {prompt: question, completion: answer}\n"
    )
    .replace("answer}\n", "answer}\n  eval: {fraction: 0.05}\n")
    .replace("max_grad_norm: 0.0", "max_grad_norm: 1.0")
)


def _write(folder: Path, text: str = RECIPE) -> Path:
    rows = (json.dumps({"question": f"What is {i}?", "answer": f"It is {i}."}) for i in range(40))
    (folder / "train.jsonl").write_text("\n".join(rows), encoding="utf-8")
    path = folder / "recipe.yaml"
    path.write_bytes(text.encode())
    return path


def _validate(*paths: Path, sets: tuple[str, ...] = (), format: str = "text", **ignore: str) -> int:
    return validate_recipes(paths, sets=sets, ignore=ignore, format=format, fix=True)


def _lines(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if line.startswith(("fixed ", "not fixed "))]


def test_fixes_are_written_told_and_checked_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _write(tmp_path)
    assert _validate(path) == 0
    assert path.read_text() == FIXED
    printed = capsys.readouterr().out
    diff, _, rest = printed.partition("fixed ")
    assert diff.startswith(f"--- {path}\n+++ {path} (fixed)\n@@ ") and "\n+++" not in rest
    changed = [line for line in diff.splitlines()[2:] if line[0] in "+-"]
    assert (
        "-  max_grad_norm: 0.0   # clip nothing" in changed
        and "+  max_grad_norm: 1.0   # clip nothing" in changed
    )
    assert sum(line[0] == "-" for line in changed) == 1 and len(changed) == 4
    assert sorted(_lines(printed)) == [
        f"fixed {path}: data.eval {{fraction: 0.05}} added (TRAIN006)",
        f"fixed {path}: data.train.0.columns {{prompt: question, completion: answer}} added (DATA002)",
        f"fixed {path}: training.max_grad_norm 0.0 → 1.0 (TRAIN002)",
    ]
    assert "ready" in printed.splitlines()[-1]
    assert _validate(path) == 0
    assert not _lines(capsys.readouterr().out)


def test_every_patch_of_a_recipe_check_mends_what_it_was_found_for(tmp_path: Path) -> None:
    checks = load_checks(upto="recipe")
    mended = set()
    for check in checks:
        for fault in check.faults:
            world = HEALTHY[check.methods[0]][0](tmp_path / check.id / fault.__name__)
            world.folder.mkdir(parents=True, exist_ok=True)
            fault(world)
            before = ascend(world.write(), checks=checks, sets=world.sets, upto=AtRecipe)
            if before.at is None or not fix_recipe(before.report, before.at.file, out=io.StringIO()):
                continue
            after = ascend(world.folder / "recipe.yaml", checks=checks, sets=world.sets, upto=AtRecipe)
            left = [finding for finding in after.report.findings if finding.patch is not None]
            assert not left and after.report.ok, f"{check.id} {fault.__name__}: {after.report.findings}"
            mended.add(check.id)
    assert mended >= {"DATA002", "TRAIN002", "TRAIN003", "TRAIN005", "TRAIN006", "TRAIN007", "TRAIN008"}


def test_what_is_ignored_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _write(tmp_path)
    assert _validate(path, TRAIN002="as it was in the paper") == 0
    assert "max_grad_norm: 0.0" in path.read_text()
    assert "TRAIN002" not in "".join(_lines(capsys.readouterr().out))


def test_what_stands_elsewhere_is_told_and_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = _write(tmp_path, FIXED.replace("max_grad_norm: 1.0", "max_grad_norm: 0.0"))
    before = base.read_bytes()
    path = tmp_path / "child.yaml"
    path.write_text("extends: recipe.yaml\nname: child\n")
    assert _validate(path, sets=("training.adam_beta2=0.1",)) == 0
    assert _lines(capsys.readouterr().out) == [
        f"not fixed {path}: training.max_grad_norm → 1.0 (TRAIN002): it stands in {base}:14; change it there.",
        f"not fixed {path}: training.adam_beta2 → 0.999 (TRAIN008): it comes from --set; change it there.",
    ]
    assert path.read_text() == "extends: recipe.yaml\nname: child\n" and base.read_bytes() == before


def test_a_key_of_a_base_is_laid_over_where_the_finding_is_here(tmp_path: Path) -> None:
    base = _write(
        tmp_path,
        FIXED.replace('eval_strategy: "epoch"', 'eval_strategy: "no"').replace("  eval: {", "  # eval: {"),
    )
    before = base.read_bytes()
    path = tmp_path / "child.yaml"
    path.write_text("extends: recipe.yaml\nname: child\ndata: {eval: {fraction: 0.1}}\n")
    assert _validate(path) == 0
    assert path.read_text().endswith("fraction: 0.1}}\ntraining:\n  eval_strategy: epoch\n")
    assert base.read_bytes() == before


def test_a_base_that_is_fixed_counts_for_what_extends_it(tmp_path: Path) -> None:
    base = _write(tmp_path, FIXED.replace("warmup_steps: 0.1", "adam_epsilon: 0.0"))
    path = tmp_path / "child.yaml"
    path.write_text("extends: recipe.yaml\nname: child\n")
    assert _validate(path) == 3
    assert _validate(path, base) == 0
    assert "adam_epsilon: 1.0e-8\n" in base.read_text()


def test_what_cannot_be_spliced_is_left_to_the_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = FIXED.replace("max_grad_norm: 1.0 ", "max_grad_norm: &zero 0.0 ") + "  weight_decay: *zero\n"
    path = _write(tmp_path, text.replace("epoch\n  weight", "epoch\n  max_steps: 0\n  weight"))
    assert _validate(path) == 0
    lines = _lines(capsys.readouterr().out)
    assert len(lines) == 2 and "by hand" in next(line for line in lines if "TRAIN002" in line)
    assert "&zero 0.0" in path.read_text() and "max_steps: -1" in path.read_text()


def test_the_gravest_finding_decides_a_key(tmp_path: Path) -> None:
    path = _write(tmp_path)
    mild = Finding("m", "f", patch=Patch("training.seed", 1), severity="info", id="TRAIN901")
    grave = replace(mild, patch=Patch("training.seed", 2), severity="error", id="TRAIN902")
    check = load_checks(upto="recipe")[0]
    report = Report(str(path), "sft", "recipe", [Result(check, "found", (mild, grave))])
    out = io.StringIO()
    assert fix_recipe(report, load_recipe(path), out=out)
    assert out.getvalue().splitlines()[-2:] == [
        "+  seed: 2",
        f"fixed {path}: training.seed 2 added (TRAIN902)",
    ]
    assert path.read_text() == f"{RECIPE}  seed: 2\n"


def test_formats_for_machines_keep_stdout_to_themselves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _write(tmp_path)
    assert _validate(path, format="json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["ok"]
    assert len(_lines(printed.err)) == 3


def test_a_broken_recipe_is_reported_and_left(tmp_path: Path) -> None:
    path = _write(tmp_path, RECIPE.replace("max_grad_norm", "max_gradnorm"))
    before = path.read_bytes()
    assert _validate(path) == 2
    assert path.read_bytes() == before


def test_preflight_fixes_what_the_rows_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = sft_full(tmp_path)
    world.recipe["training"]["max_length"] = 26
    path = world.write()
    before = path.read_text()
    code = preflight_recipe(path, upto="data", sets=(), ignore={}, format="text", fix=True)
    printed = capsys.readouterr().out
    wanted = load_recipe(path).recipe.training["max_length"]
    assert code == 0 and wanted > 26
    assert _lines(printed) == [f"fixed {path}: training.max_length 26 → {wanted} (DATA011)"]
    assert path.read_text() == before.replace("max_length: 26", f"max_length: {wanted}")


def test_a_link_permissions_and_bytes_are_kept(tmp_path: Path) -> None:
    path = _write(tmp_path, "\ufeff" + RECIPE.replace("\n", "\r\n"))
    path.chmod(0o640)
    link = tmp_path / "link.yaml"
    link.symlink_to(path.name)
    assert _validate(link) == 0
    assert link.is_symlink() and not path.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.read_bytes() == ("\ufeff" + FIXED.replace("\n", "\r\n")).encode()
    assert sorted(child.name for child in tmp_path.iterdir()) == ["link.yaml", "recipe.yaml", "train.jsonl"]


def test_a_file_that_changed_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = _write(tmp_path)
    ascent = ascend(path, checks=load_checks(upto="recipe"), upto=AtRecipe)
    assert ascent.at is not None
    path.write_text(f"{RECIPE}  seed: 3\n")
    out = io.StringIO()
    with pytest.raises(FtrunError, match="changed"):
        fix_recipe(ascent.report, ascent.at.file, out=out)
    assert path.read_text() == f"{RECIPE}  seed: 3\n" and not _lines(out.getvalue())
    with pytest.raises(FtrunError, match="changed"):
        replace_text(tmp_path / "gone.yaml", "a: 1\n", "a: 2\n")
