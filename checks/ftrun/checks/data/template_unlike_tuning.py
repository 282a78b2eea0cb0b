"""A stage renders conversations with another chat template than the one that its model was tuned with.

Symptom: what the earlier stage taught is gone at the first step: the loss starts far above that of its end, and
answers of DPO or PPO are those of a base model.
Cause: `model.chat_template` is set in the later recipe, and is not that of the earlier one.
Fix: leave `model.chat_template` out of the later stage: the model brings its own.
Prevention: set the chat template once, in the first stage that tunes a model.
Source: conversations of the rows are rendered with both templates. Text that is equal but for white space passes, and
so do the variants of a template that mark what is trained. Only models that ftrun tuned in a stage before, or in a
run, are judged: a base model may be given any template.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ftrun.checks.check import check
from ftrun.checks.course import Course
from ftrun.checks.engine import NotApplicable
from ftrun.checks.examples import clip, is_chat, messages_of, spread, squeeze
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.stages import AtData, AtRecipe

if TYPE_CHECKING:
    from ftrun.checks.testing import World

LOOKED_AT = 8
"""Conversations of each source."""


@check("MODEL033", title="a tuned model is spoken to as it was tuned", severity="warning")
def template_unlike_tuning(at: AtData) -> Iterator[Finding]:
    from transformers import AutoTokenizer

    tuned_in = _find_tuning(at)
    if tuned_in is None or at.recipe.model.chat_template is None:
        raise NotApplicable("the model's own chat template is used, or nothing is known of its tuning")
    own = AutoTokenizer.from_pretrained(at.model_folder, trust_remote_code=at.recipe.model.trust_remote_code)
    if own.chat_template is None:
        raise NotApplicable("the model was tuned without a chat template")
    for source in at.sources:
        for i in spread(len(source.examples), LOOKED_AT).tolist():
            example = source.examples[i]
            if not is_chat(example):
                continue
            was, now = (squeeze(_render(tokenizer, example)) for tokenizer in (own, at.tokenizer))
            if was != now:
                yield Finding(
                    message=f"model.chat_template writes conversations otherwise than the template that {tuned_in} "
                    "tuned this model with.",
                    fix="Remove model.chat_template: the model brings the one that it was tuned with.",
                    where=at.where("model.chat_template"),
                    evidence=(f"tuned: {clip(was, 80)}", f"now: {clip(now, 80)}"),
                    patch=Patch("model.chat_template", None),
                )
                return


def _find_tuning(at: AtData) -> str | None:
    """What tuned the model that the recipe starts from; None where that is not known."""
    stage = None if at.course is None else at.course.inputs.get("model.path")
    if stage is not None:
        return f"the stage `{stage}`"
    path = at.recipe.model.path
    return f"the run {path.removeprefix('run:')}" if path.startswith("run:") else None


def _render(tokenizer: Any, example: Mapping[str, Any]) -> str:
    options = {"tools": example.get("tools"), **(example.get("chat_template_kwargs") or {})}
    text: str = tokenizer.apply_chat_template(messages_of(example), tokenize=False, **options)
    return text


@template_unlike_tuning.fault
def the_second_stage_speaks_otherwise(world: World) -> None:
    import yaml

    from ftrun.checks.testing import sft_chat
    from ftrun.schemas.pipeline import load_pipeline

    def plant(at: AtRecipe) -> AtRecipe:
        recipe, path = {"recipe": "recipe.yaml"}, world.folder / "pipeline.yaml"
        stages = {"first": recipe, "second": recipe | {"set": {"model.path": "stage:first"}}}
        path.write_text(yaml.safe_dump({"name": "two", "stages": stages}), encoding="utf-8")
        return replace(at, course=Course(load_pipeline(path), "second"))

    world.rows = sft_chat(world.folder).rows
    world.recipe["model"]["chat_template"] = "other.jinja"
    world.folder.mkdir(parents=True, exist_ok=True)
    (world.folder / "other.jinja").write_text(
        "{% for m in messages %}{{ '[' + m.role + '] ' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '[assistant] ' }}{% endif %}",
        encoding="utf-8",
    )
    world.after(AtRecipe, plant)
