"""The questions of a probe: the recipe's own, or those of general knowledge that come with ftrun."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from itertools import takewhile
from pathlib import Path

import numpy as np

from ftrun.checks.stages import AtModel
from ftrun.runner.answers import divide
from ftrun.runner.data.encoding import encode_split
from ftrun.runner.data.sources import load_source
from ftrun.schemas.errors import DataError, RunError
from ftrun.schemas.sections import Source

SHIPPED = "general_knowledge.jsonl"


@dataclass(frozen=True)
class Question:
    """A question of the probe, as text and as tokens."""

    text: str
    answer: str
    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    """Without the token that stops."""


def load_questions(at: AtModel) -> list[Question]:
    """The questions of the recipe's probe, or of ours. Raises RunError where they cannot be read."""
    path = at.recipe.guards.knowledge_forgotten.probe
    own = Path(str(files("ftrun.runner.guarding").joinpath(SHIPPED)))
    source = Source(path=str(own) if path is None else path, format="prompt_completion")
    template = at.tokenizer.chat_template is not None
    try:
        rows = load_source(
            source,
            "guards.knowledge_forgotten.probe",
            at.file.folder,
            method="sft",
            loss_on="completion",
            has_template=template,
            can_mark_turns=False,
        )
        origins = np.array([(0, number) for number in range(len(rows.examples))], np.int32)
        encoded = encode_split(origins, (rows,), at.tokenizer, max_length=None, truncation_mode=None)
    except DataError as error:
        raise RunError(f"guards.knowledge_forgotten.probe: {error}") from error
    parts = [part for row in encoded if (part := divide(row)) is not None]
    if len(parts) < 2:
        raise RunError(f"guards.knowledge_forgotten.probe: {source.path} holds fewer than two questions")
    return [_make_question(at, *part) for part in parts]


def _make_question(at: AtModel, prompt: list[int], answer: list[int]) -> Question:
    said = list(takewhile(lambda id: id not in at.stop_ids, answer)) or answer
    texts = (at.tokenizer.decode(ids, skip_special_tokens=True) for ids in (prompt, said))
    question, text = (" ".join(text.split()) for text in texts)
    return Question(question, text, tuple(prompt), tuple(said))
