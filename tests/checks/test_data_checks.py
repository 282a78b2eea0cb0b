"""The checks of rows are silent where rows are right in unusual ways, and say what is wrong where they are not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ftrun.checks.catalogue import load_checks
from ftrun.checks.finding import Finding, Patch
from ftrun.checks.testing import World, sft_chat, sft_full, sft_packed
from ftrun.runner.preflight import climb
from ftrun.runner.tiny import locate

CHECKS = [check for check in load_checks(upto="data") if check.module.startswith("ftrun.checks.data.")]
ANSWERED = {"role": "assistant", "content": "It is red."}


def find(world: World, *ids: str) -> list[Finding]:
    """What the checks of the data stage (or those with the given ids) find."""
    chosen = [check for check in CHECKS if not ids or check.id in ids]
    assert len(chosen) >= len(ids)
    return list(climb(world.write(), checks=chosen, after=world.apply).findings)


def told(world: World) -> list[str]:
    return [finding.id for finding in find(world) if finding.severity != "info"]


def only(world: World, id: str) -> Finding:
    (finding,) = find(world, id)
    return finding


def ask(room: int, *messages: Mapping[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"What colour is lamp {room}?"}, *messages]}


def unusual(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Healthy conversations, each second one with something that a careless check would stumble over."""

    def thinks(messages: list[dict[str, Any]], i: int) -> list[dict[str, Any]]:
        thought = {"content": f"<think>\nRoom {i}.\n</think>\n\n{messages[-1]['content']}"}
        return [*messages[:-1], messages[-1] | thought]

    def says_one_letter(messages: list[dict[str, Any]], i: int) -> list[dict[str, Any]]:
        return [*messages[:-1], messages[-1] | {"content": "aAsn0"[i % 5]}]

    def echoes(messages: list[dict[str, Any]], i: int) -> list[dict[str, Any]]:
        return [*messages[:-1], messages[-1] | {"content": messages[-2]["content"]}]

    def is_chinese(messages: list[dict[str, Any]], i: int) -> list[dict[str, Any]]:
        return [message | {"content": f"{i} 你好，世界 🙂👩‍👩‍👧 é"} for message in messages]

    kinds = (thinks, says_one_letter, echoes, is_chinese)
    return [
        {"messages": kinds[i // 2 % 4](row["messages"], i)} if i % 2 else row for i, row in enumerate(rows)
    ]


# Templates of four families: plain, one that rewrites reasoning, one with its own system text, one that trims.
@pytest.mark.parametrize("template", [None, "qwen3", "gptoss", "deepseekv3"])
@pytest.mark.parametrize("loss_on", ["assistant", "completion", "all"])
def test_labels_of_unusual_conversations_are_right(
    template: str | None, loss_on: str, tmp_path: Path
) -> None:
    world = sft_chat(tmp_path)
    world.rows = unusual(world.rows)
    world.recipe["data"]["loss_on"] = loss_on
    world.recipe["model"]["chat_template"] = template
    world.recipe["training"]["max_length"] = 1024
    assert not find(world, "DATA006", "DATA008", "DATA010", "DATA013", "DATA017")


def test_tool_calls_are_no_blank_answers(tmp_path: Path) -> None:
    world = sft_chat(tmp_path)
    call = {"type": "function", "function": {"name": "look", "arguments": {"room": 3}}}
    called = {"role": "assistant", "tool_calls": [call]}
    for i in range(0, 32, 2):
        told_by_tool = {"role": "tool", "content": f'{{"room {i}": "red"}}'}
        world.rows[i] = ask(i, called, told_by_tool, ANSWERED)
        world.rows[i + 1] = ask(i + 1, called)
    assert not told(world)


@pytest.mark.parametrize(
    "training",
    [
        {"max_length": 48, "packing": True, "packing_strategy": "wrapped"},
        {"max_length": 48, "packing": True, "packing_strategy": "bfd_split", "shuffle_dataset": True},
        {"max_length": None, "shuffle_dataset": True},
    ],
)
def test_rows_reach_the_trainer_whole(training: dict[str, Any], tmp_path: Path) -> None:
    world = sft_packed(tmp_path)
    world.recipe["training"] |= {"packing": False, **training}
    world.recipe["data"]["train"][0]["weight"] = 1.5
    world.rows[3]["text"] *= 30
    assert not find(world, "DATA003", "DATA008", "DATA011", "DATA013", "DATA018")


def test_what_is_wrong_with_the_labels_is_named(tmp_path: Path) -> None:
    messages = []
    for fault in next(check for check in CHECKS if check.id == "DATA008").faults:
        world = sft_full(tmp_path / fault.__name__)
        fault(world)
        messages.append((fault.__name__, only(world, "DATA008").message))
    said = dict(messages)
    assert said["template_marks_every_turn"].startswith("Prompt tokens are trained in 32 of 32 rows")
    assert "under 1%" not in said["boundary_is_two_tokens_early"]
    assert said["boundary_is_two_tokens_early"].startswith("Prompt tokens are trained in 32 of 32 rows")
    assert said["first_answer_token_is_masked"].startswith("Answer tokens are masked in 32 of 32 rows")
    assert "labels are neither" in said["labels_are_shifted"]
    assert said["last_turn_is_the_users"].startswith("Prompt tokens are trained in 32 of 32 rows")


def test_conversation_that_ends_with_a_question_is_told_how_to_end(tmp_path: Path) -> None:
    world = sft_chat(tmp_path)
    world.recipe["data"]["loss_on"] = "completion"
    world.rows[0]["messages"].pop()
    world.rows = world.rows[:1] * 8 + world.rows
    assert only(world, "DATA008").fix.startswith("End these conversations with a turn of the assistant")


def test_template_that_renders_no_answer_is_told(tmp_path: Path) -> None:
    world = sft_chat(tmp_path)
    world.recipe["model"]["chat_template"] = (
        "smolvlm_training"  # it reads lists of parts, never plain content
    )
    assert "an answer is nowhere among the tokens" in only(world, "DATA008").message


def test_missing_stop_token_is_explained(tmp_path: Path) -> None:
    masked, elsewhere, _ = next(check for check in CHECKS if check.id == "DATA003").faults
    world = sft_full(tmp_path / "masked")
    masked(world)
    assert "'<|im_end|>' (id 3) follows there, but is masked" in only(world, "DATA003").message
    world = sft_full(tmp_path / "elsewhere")
    elsewhere(world)
    assert only(world, "DATA003").patch == Patch("training.eos_token", "<|im_end|>")


def test_earlier_turns_that_end_otherwise_are_a_warning(tmp_path: Path) -> None:
    world = sft_chat(tmp_path)
    world.write()
    (tmp_path / "own.jinja").write_text(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content + ('<|im_end|>' if loop.last else '###') }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}{{ '\n' }}{% endfor %}"
    )
    world.recipe["model"]["chat_template"] = "own.jinja"
    finding = only(world, "DATA003")
    assert finding.severity == "warning" and "24 of 24 earlier turns" in finding.message


def test_cut_beginnings_keep_their_ends(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.recipe["training"] |= {"max_length": 24, "truncation_mode": "keep_end"}
    found = {finding.id: finding for finding in find(world)}
    assert "lose their beginnings" in found["DATA011"].message
    assert not found.keys() & {"DATA003", "DATA008"}


def test_proposed_max_length_holds_the_rows(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.recipe["training"]["max_length"] = 24
    patch = only(world, "DATA011").patch
    assert patch is not None and patch.key == "training.max_length"
    world.recipe["training"]["max_length"] = patch.value
    assert not told(world)


def test_cut_text_is_a_warning(tmp_path: Path) -> None:
    world = sft_packed(tmp_path)
    world.recipe["training"] |= {"packing": False, "max_length": 24}
    assert only(world, "DATA011").severity == "warning"


@pytest.mark.parametrize(("long", "severity"), [(1, "info"), (6, "warning"), (60, "error")])
def test_share_of_rows_without_labels_decides(long: int, severity: str, tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.rows = world.rows * 8
    for row in range(long):
        world.rows[row] = {**world.rows[row], "prompt": "A long story about the house. " * 60}
    finding = only(world, "DATA009")
    assert finding.severity == severity
    assert f"{long} of 256 training rows" in finding.message and "at max_length 256" in finding.message


def test_empty_training_set_is_told(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.recipe["training"]["max_length"] = 8
    finding = only(world, "DATA009")
    assert (
        finding.severity == "error"
        and "No row is left" in finding.message
        and "max_length 8" in finding.message
    )


def test_broken_line_is_told_by_its_number(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    recipe = world.write()
    with (tmp_path / "train.jsonl").open("a") as file:
        file.write('\n{"prompt": "never clo')
    checks = [check for check in CHECKS if check.id == "DATA005"]
    (finding,) = climb(recipe, checks=checks).findings
    assert finding.where.row == 34 and "1 of 33 rows" in finding.message and "not JSON" in finding.message


def test_failure_points_at_its_source(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.recipe["data"]["train"].append({"path": "other.jsonl", "columns": {"prompt": "question"}})
    world.write()
    shutil.copy(tmp_path / "train.jsonl", tmp_path / "other.jsonl")
    finding = only(world, "DATA004")
    assert finding.where.key == "data.train.1" and "no column question" in finding.message


def own_model(folder: Path, change: Callable[[Any], None]) -> str:
    """A copy of `tiny` whose tokenizer is changed."""
    from transformers import AutoTokenizer

    shutil.copytree(locate(), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    change(tokenizer)
    tokenizer.save_pretrained(folder)
    return str(folder)


def begin_texts(tokenizer: Any) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", 1)]
    )


def test_beginnings_of_a_tokenizer_that_adds_them(tmp_path: Path) -> None:
    model = own_model(tmp_path / "model", begin_texts)
    plain = sft_full(tmp_path / "plain")
    plain.recipe["model"]["path"] = model
    assert not find(plain, "DATA008", "DATA012", "DATA015")
    plain.rows = [{**row, "prompt": f"<|begin|>{row['prompt']}"} for row in plain.rows]
    assert "32 of 32 rows begin" in only(plain, "DATA012").message
    chat = sft_chat(tmp_path / "chat")
    chat.recipe["model"]["path"] = model
    assert "24 of 24 rows do not begin" in only(chat, "DATA015").message


def test_added_token_without_embedding(tmp_path: Path) -> None:
    model = own_model(tmp_path / "model", lambda tokenizer: tokenizer.add_tokens(["<lamp>"]))
    world = sft_full(tmp_path / "world")
    world.recipe["model"]["path"] = model
    assert not find(world, "DATA014")
    world.rows[4]["completion"] = "<lamp>"
    finding = only(world, "DATA014")
    assert "1 tokens of 1 rows have ids from 1024 to 1024" in finding.message
    assert "row 5" in finding.evidence[0]


def test_scaled_positions_count_as_far_as_they_reach(tmp_path: Path) -> None:
    model = own_model(tmp_path / "model", lambda tokenizer: None)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["max_position_embeddings"] = 16
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    world = sft_full(tmp_path / "world")
    world.recipe["model"]["path"] = model
    assert only(world, "DATA018").patch == Patch("training.max_length", 16)
    config["rope_parameters"] = {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 16.0,
        "original_max_position_embeddings": 16,
    }
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    assert not find(world, "DATA018")


def test_system_text_merged_into_the_question_is_rendered(tmp_path: Path) -> None:
    world = sft_chat(tmp_path)
    world.recipe["model"]["chat_template"] = "gemma3_training"
    assert not find(world, "DATA008", "DATA017")


def test_marks_of_the_tokenizers_own_template_are_an_info(tmp_path: Path) -> None:
    def use_zephyr(tokenizer: Any) -> None:
        tokenizer.chat_template = (
            "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% if false %}<|user|><|assistant|><|system|>{% endif %}"
            "{{ '\n' + m.content + eos_token + '\n' }}{% endfor %}"
        )

    world = sft_chat(tmp_path / "world")
    world.recipe["model"]["path"] = own_model(tmp_path / "model", use_zephyr)
    assert only(world, "DATA016").severity == "info"


@pytest.mark.parametrize(
    ("training", "severity"),
    [
        ({"warmup_steps": 0.5}, None),
        ({"warmup_steps": 9}, "warning"),
        ({"warmup_steps": 16}, "error"),
        ({"warmup_steps": 16, "lr_scheduler_type": "constant"}, None),
        ({"warmup_steps": 3, "max_steps": 4}, None),
        ({"warmup_steps": 100, "max_steps": 4}, "warning"),
        ({"warmup_steps": 0.1, "per_device_train_batch_size": 32, "num_train_epochs": 1}, None),
    ],
)
def test_warmup_of_sixteen_steps(training: dict[str, Any], severity: str | None, tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.recipe["training"] |= training
    assert [finding.severity for finding in find(world, "TRAIN004")] == ([severity] if severity else [])


@pytest.mark.parametrize(
    "training",
    [
        {"save_strategy": "steps"},  # TRL's own 500 steps
        {"save_strategy": "steps", "save_steps": 0.5},
        {"save_strategy": "steps", "save_steps": 16, "eval_strategy": "steps", "eval_steps": 12},
        {
            "save_strategy": "steps",
            "save_steps": 50,
            "eval_strategy": "steps",
            "eval_steps": 50,
            "max_steps": 4,
        },
    ],
)
def test_intervals_within_the_run_are_fine(training: dict[str, Any], tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.recipe["data"]["eval"] = {"fraction": 0.25}
    world.recipe["training"] |= {"num_train_epochs": 4, **training}
    assert not find(world, "TRAIN010", "TRAIN011")


def write_more(world: World, rows: list[dict[str, Any]]) -> None:
    """A second source with these rows."""
    world.folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    (world.folder / "more.jsonl").write_text(lines, encoding="utf-8")
    world.recipe["data"]["train"].append({"path": "more.jsonl"})


def hold_out(world: World) -> None:
    world.recipe["data"]["eval"] = {"fraction": 0.25}
    world.recipe["training"]["eval_strategy"] = "epoch"


ALIKE = ("DATA020", "DATA021", "DATA023", "DATA024", "DATA026")


def test_what_only_looks_alike_is_no_copy(tmp_path: Path) -> None:
    """Weights, labels that come a hundred times, several answers to a question, sums with other signs."""
    weighed = sft_full(tmp_path / "weighed")
    weighed.recipe["data"]["train"][0]["weight"] = 3.5
    hold_out(weighed)
    assert not find(weighed, *ALIKE)
    labels = sft_full(tmp_path / "labels")
    labels.rows = [{"prompt": f"Is {i} even?\n", "completion": "no" if i % 2 else "yes"} for i in range(400)]
    hold_out(labels)
    assert not find(labels, *ALIKE)
    signs = sft_full(tmp_path / "signs")
    signs.rows = [
        {"prompt": f"{i} {sign} 2 =", "completion": "A number."} for i in range(99) for sign in "+-*/"
    ]
    hold_out(signs)
    assert not find(signs, *ALIKE)
    several = sft_full(tmp_path / "several")
    write_more(several, [{**row, "completion": f"Well. {row['completion']}"} for row in several.rows])
    hold_out(several)
    assert [finding.severity for finding in find(several, *ALIKE)] == ["info"]


@pytest.mark.parametrize(
    ("rows", "severity"),
    [(range(30), None), ([*range(28), 0, 1, 2, 3, 4], "warning"), ([0, 1] * 16, "error")],
)
def test_share_of_copies_decides(rows: Sequence[int], severity: str | None, tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.rows = [world.rows[i] for i in rows]
    assert [finding.severity for finding in find(world, "DATA020")] == ([severity] if severity else [])


def test_one_row_in_many_copies_is_a_trial(tmp_path: Path) -> None:
    world = sft_packed(tmp_path)
    world.rows = world.rows[:1] * 32
    assert only(world, "DATA020").severity == "info"


def test_long_rows_that_begin_alike_are_no_copies(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.recipe["training"]["max_length"] = 64
    world.rows = [{"prompt": "A story. " * 9, "completion": f"{'It ends. ' * 9}{i}"} for i in range(32)]
    assert not find(world, "DATA020")


def test_training_row_in_the_evaluation_is_named(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    new = [{"prompt": f"Who lives in room {i}?\n", "completion": f"Guest {i}."} for i in range(99)]
    world.eval_rows = [*new, {**world.rows[6], "prompt": world.rows[6]["prompt"].upper()}]
    world.recipe["data"]["eval"] = [{"path": "eval.jsonl"}]
    assert not find(world, "DATA021")
    world.eval_rows.append(world.rows[7])
    finding = only(world, "DATA021")
    assert finding.severity == "warning"
    assert finding.evidence[0].startswith("eval.jsonl row 100 is train.jsonl row 7")


def test_a_file_in_its_own_order_is_fine_unless_it_is_sorted(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.recipe["training"]["train_sampling_strategy"] = "sequential"
    assert not find(world, "DATA023")
    for number, row in enumerate(world.rows):
        row["completion"] = "yes" if number % 2 else "no"
    assert not find(world, "DATA023")
    world.rows.sort(key=lambda row: str(row["completion"]))
    assert "2 answers come in one block each" in only(world, "DATA023").message
    world.recipe["training"]["shuffle_dataset"] = True
    assert not find(world, "DATA023")


def test_growing_rows_are_a_curriculum(tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.rows.sort(key=lambda row: len(row["completion"]))
    world.recipe["training"]["train_sampling_strategy"] = "sequential"
    assert {finding.severity for finding in find(world, "DATA023")} <= {"info"}


@pytest.mark.parametrize("words", ["Write a question about this: {}\n", "{}\nWhat was asked?\n"])
def test_writing_questions_is_a_task(words: str, tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.rows = [
        {"prompt": words.format(row["completion"]), "completion": row["prompt"].strip()} for row in world.rows
    ]
    assert not find(world, "DATA026")


def test_text_is_wrapped_on_purpose(tmp_path: Path) -> None:
    world = sft_packed(tmp_path)
    world.recipe["training"]["packing_strategy"] = "wrapped"
    assert not find(world, "DATA025")


def test_nulls_that_a_tool_takes_are_its_own(tmp_path: Path) -> None:
    world = sft_chat(tmp_path)
    world.recipe["training"]["max_length"] = 1024
    for i, row in enumerate(world.rows):
        arguments = {"room": str(i), "floor": None if i % 2 else "1", "door": None}
        call = {"type": "function", "function": {"name": "look", "arguments": arguments}}
        row["messages"][2:2] = [
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "content": "red"},
        ]
        place = {"type": ["string", "null"], "default": None}
        parameters = {"properties": {"room": {"type": "string"}, "floor": place, "door": place}}
        row["tools"] = [{"type": "function", "function": {"name": "look", "parameters": parameters}}]
    world.recipe["model"]["chat_template"] = "qwen3_training"
    assert not find(world, "DATA027")


def test_fields_that_a_table_filled_with_nulls_are_told(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def call(name: str, **arguments: str) -> dict[str, Any]:
        return {"type": "function", "function": {"name": name, "arguments": arguments}}

    world = sft_chat(tmp_path)
    calls = [call("look", room=f"{i}") if i % 2 else call("travel", city=f"City {i}") for i in range(32)]
    rows = [ask(i, {"role": "assistant", "content": "", "tool_calls": [one]}) for i, one in enumerate(calls)]
    world.write()
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    world.recipe["data"]["train"] = [{"path": "train.parquet"}]
    assert "city, room" in only(world, "DATA027").message


def test_other_columns_beside_text_are_no_answers(tmp_path: Path) -> None:
    (check,) = (one for one in load_checks("recipe") if one.id == "DATA022")
    world = sft_packed(tmp_path)
    for number, row in enumerate(world.rows):
        row |= {"answer": row["text"][-20:], "output": "ok", "source": "a long note " * 9, "id": number}
    assert not climb(world.write(), checks=[check]).findings
    for number, row in enumerate(world.rows):
        row["output"] = f"Something that the text does not say, number {number}."
    (finding,) = climb(world.write(), checks=[check]).findings
    assert finding.patch == Patch("data.train.0.columns", {"prompt": "text", "completion": "output"})


@pytest.mark.parametrize(
    ("prompt", "completion", "found"),
    [("answer", "question", 1), ("target", "source", 0), ("question", "answer", 0)],
)
def test_names_of_columns_tell_a_swap(prompt: str, completion: str, found: int, tmp_path: Path) -> None:
    world = sft_full(tmp_path)
    world.rows = [{prompt: row["prompt"], completion: row["completion"]} for row in world.rows]
    world.recipe["data"]["train"][0]["columns"] = {"prompt": prompt, "completion": completion}
    assert len(find(world, "DATA026")) == found
