"""`ftrun init`: a short, commented starter recipe for a method and a file of rows, valid at once."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

from ftrun.checks.columns import guess_columns
from ftrun.runner.data.files import read_head
from ftrun.runner.printing.text import make_console
from ftrun.schemas.errors import DataError, FtrunError
from ftrun.schemas.formats import COLUMNS, recognise, rename
from ftrun.schemas.load import load_recipe, method_names
from ftrun.schemas.sections import Source

EXAMPLE_ROWS = (
    ("Where can I see my invoices?", "Open Account, then Billing. Every invoice is listed there as a PDF."),
    ("How do I change my password?", "Open Account, then Security, and choose Change password."),
    (
        "Can I pause my subscription?",
        "Yes. Open Account, then Plan, and choose Pause for up to three months.",
    ),
    ("Do you ship to Norway?", "Yes. Parcels to Norway take four to six working days."),
    (
        "The app shows an empty page.",
        "Please update the app. If the page stays empty, sign out and in again.",
    ),
    (
        "Can two people share an account?",
        "Yes. Open Account, then People, and invite the second person by mail.",
    ),
    ("How long is the warranty?", "Two years from the day the parcel reaches you."),
    (
        "I sent the wrong item back.",
        "No harm done. Write to us with both order numbers and we swap the parcels.",
    ),
)
"""Rows for a recipe that is started without any: enough to see everything work, not to teach a model."""

STARTER = """\
# yaml-language-server: $schema=recipe.schema.json
# The line above completes and checks this file in an editor, once `ftrun schema > recipe.schema.json` has run here.
# Check it with `ftrun validate {file}`, see the rows with `ftrun preview {file}`, train with `ftrun {file}`.
name: {name}
method: sft

model:
  path: tiny                  # a toy that runs anywhere in seconds; then a hub id such as Qwen/Qwen3-0.6B
  lora:                       # remove this section to train every weight
    r: 16
    lora_alpha: 32
    target_modules: all-linear

data:
  train:
    - path: {data}
{source}  eval: {{fraction: 0.1}}      # held out, to see whether the model learns or memorises
{loss}
training:                     # any field of TRL's SFTConfig, by its own name
  learning_rate: 2.0e-4       # about 2e-4 with LoRA, 2e-5 without
  num_train_epochs: 3
  per_device_train_batch_size: 8
  warmup_steps: 0.05          # below 1: a share of all steps
  max_length: 1024            # longer rows are cut; preflight says how many
  eval_strategy: epoch
  save_strategy: epoch
  seed: 42
"""

LOSS = {
    "text": "  # every token of a text is trained",
    "prompt_completion": "  loss_on: completion         # only the answer is trained, not the prompt",
    "alpaca": "  loss_on: completion         # only the answer is trained, not the instruction",
    "messages": "  loss_on: assistant          # every turn of the assistant is trained, nothing else",
    "sharegpt": "  loss_on: assistant          # every turn of the assistant is trained, nothing else",
}


def write_starter(method: str, data: Path | None, output: Path | None) -> int:
    """Write the recipe, and example rows beside it where there is no `data`.

    Raises FtrunError where the method is unknown, the rows cannot be told, or a file is in the way.
    """
    if method not in method_names():
        raise FtrunError(f"there is no method {method}; there is {', '.join(method_names())}")
    target = output or Path(f"{method}.yaml")
    if target.exists():
        raise FtrunError(f"{target} is there already; choose another name with --output")
    console = make_console()
    if data is None:
        data = target.with_name(f"{target.stem}.jsonl")
        _write_examples(data)
        console.print(f"wrote {data}: {len(EXAMPLE_ROWS)} example rows to replace with your own")
    target.write_text(make_starter(method, data, target), encoding="utf-8")
    load_recipe(target)
    console.print(f"wrote {target}")
    console.print(f"next: ftrun preview {target}, then ftrun {target}")
    return 0


def _write_examples(path: Path) -> None:
    if path.exists():
        raise FtrunError(f"{path} is there already; give it as DATA, or choose another name with --output")
    rows = (json.dumps({"prompt": f"{prompt}\n", "completion": answer}) for prompt, answer in EXAMPLE_ROWS)
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")


def make_starter(method: str, data: Path, target: Path) -> str:
    """The text of a starter recipe at `target` for the rows in `data`."""
    head = read_head(Source(path=str(data)), "data.train.0", Path())
    if head.place in ("missing", "hub"):
        raise FtrunError(f"{data} is not there")
    if head.problem is not None:
        raise FtrunError(head.problem)
    format, columns = _recognise(head.columns, data)
    source = ""
    if columns:
        mapping = ", ".join(f"{ours}: {json.dumps(theirs)}" for ours, theirs in columns.items())
        source = f"      columns: {{{mapping}}}   # the format's names, each with the name in your file\n"
    return STARTER.format(
        file=target,
        name=_make_name(data.stem, method),
        data=json.dumps(os.path.relpath(data, target.parent).replace(os.sep, "/")),
        source=source,
        loss=LOSS[format],
    )


def _recognise(columns: Sequence[str] | None, data: Path) -> tuple[str, dict[str, str]]:
    """The format of the file, and the `columns:` that it needs; prompt and answer where a look does not tell."""
    if columns is None:
        return "prompt_completion", {}
    try:
        return recognise(columns), {}
    except DataError:
        mapping = guess_columns(columns, COLUMNS, {})
    if mapping is None:
        raise FtrunError(
            f"{data} has the columns {', '.join(columns)}, and no format fits them. A row needs text, or prompt "
            "and completion, or messages; rename columns in the file, or write `columns:` into a recipe by hand"
        )
    return recognise(rename(dict.fromkeys(columns), mapping)), mapping


def _make_name(stem: str, method: str) -> str:
    words = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:80]
    return f"{words}-{method}" if words and words != method else method
