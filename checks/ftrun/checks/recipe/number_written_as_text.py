"""A number is written in a form that YAML takes for text.

Symptom: with other tools `'<=' not supported between instances of 'float' and 'str'`, after the model is
loaded.
Cause: YAML 1.1 knows `2.0e-5` and not `2e-5`: without the dot, or without the sign of the exponent, it is
text. ftrun reads it as the number.
Fix: write it with a dot and a signed exponent, and every YAML reader agrees.
Prevention: `ftrun init` writes numbers in that form.
Source: LLaMA-Factory#4014, #4149, #7793, trl#1450.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ftrun.checks.check import check
from ftrun.checks.finding import Finding
from ftrun.checks.stages import AtRecipe

if TYPE_CHECKING:
    from ftrun.checks.testing import World

SHOWN = 5


@check("REC013", severity="info", title="every number is one to every YAML reader")
def number_written_as_text(at: AtRecipe) -> Iterator[Finding]:
    """Tell the numbers that YAML 1.1 reads as text, with the form that it reads as numbers."""
    found = [
        (document.values[keys], keys[-1], text)
        for document in at.file.documents
        for keys, text in document.numbers_from_text
    ]
    if not found:
        return
    where, key, text = found[0]
    more = f" ({len(found) - 1} more like it)" if len(found) > 1 else ""
    yield Finding(
        message=f"YAML 1.1 takes `{text}` for text; ftrun reads it as the number {float(text):g}{more}.",
        fix=f"Write `{_with_key(key, text)}`, which every YAML reader takes for a number.",
        where=where,
        evidence=tuple(f"{place}: {_with_key(name, number)}" for place, name, number in found[:SHOWN]),
    )


def _with_key(key: str | int, text: str) -> str:
    number = with_dot(text)
    return f"- {number}" if isinstance(key, int) else f"{key}: {number}"


def with_dot(text: str) -> str:
    """`2e-5` as `2.0e-5`, `1.5E6` as `1.5e+6`: the same number, in the form of YAML 1.1."""
    mantissa, exponent = re.split("[eE]", text)
    sign, digits = re.fullmatch(r"([-+]?)(.*)", mantissa).groups()  # type: ignore[union-attr]  # matches any text
    whole, _, fraction = digits.partition(".")
    signed = exponent if exponent.startswith(("-", "+")) else f"+{exponent}"
    return f"{sign}{whole or '0'}.{fraction or '0'}e{signed}"


@number_written_as_text.fault
def a_rate_without_its_dot(world: World) -> None:
    """The way people write it."""
    world.recipe_text = (
        "name: healthy\nmethod: sft\nmodel: {path: tiny}\ndata: {train: [{path: train.jsonl}]}\n"
        "training: {learning_rate: 2e-5, adam_epsilon: 1E-8, num_train_epochs: 1}\n"
    )
