"""Our rows are the rows that TRL makes of the same examples: the same ids and labels, for every way to encode."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from tests.runner.small_tokenizers import BY_WORDS, TEXTS, TOKENIZERS, byte_level, load, load_for
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CohereTokenizer,
    GemmaTokenizer,
    GPT2Tokenizer,
    GPTNeoXTokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
)
from trl import SFTConfig, SFTTrainer
from trl.data_utils import common_prefix_length

from ftrun.checks.rows import IGNORED
from ftrun.checks.stages import AtEnvironment
from ftrun.runner.data.rendering import Rendered
from ftrun.runner.data.tokens import encode_whole, encode_words, tokenise, whole_offsets
from ftrun.runner.data.words import open_words
from ftrun.runner.methods.sft import build_data
from ftrun.runner.preflight import ascend
from ftrun.runner.tiny import locate

# TRL and transformers warn of settings that nobody here made; pairs of this file are what is compared.
pytestmark = pytest.mark.filterwarnings("ignore")

Rows = list[dict[str, Any]]


# The two preparations


def by_trl(rows: Rows, tokenizer: Any, folder: Path, **settings: Any) -> list[tuple[list[int], list[int]]]:
    arguments = SFTConfig(
        output_dir=str(folder / "trl"), report_to="none", use_cpu=True, bf16=False, **settings
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(locate()),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    return listed(trainer.train_dataset)


def by_ftrun(
    rows: Rows, tokenizer: Any, folder: Path, *, loss_on: str | None = None, **settings: Any
) -> list[tuple[list[int], list[int]]]:
    """The data set that training reads, through a recipe."""
    tokenizer.save_pretrained(folder / "model")
    config = json.loads((locate() / "config.json").read_text(encoding="utf-8"))
    (folder / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = {
        "name": "rows",
        "method": "sft",
        "model": {"path": "model"},
        "data": {"train": [{"path": "rows.jsonl"}]} | ({} if loss_on is None else {"loss_on": loss_on}),
        "training": {"bf16": False} | settings,
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    ascent = ascend(path, checks=(), folder=lambda file: folder, upto=AtEnvironment, needed=AtEnvironment)
    assert isinstance(ascent.at, AtEnvironment), ascent.report
    return listed(build_data(ascent.at).train_dataset)


def listed(dataset: Dataset) -> list[tuple[list[int], list[int]]]:
    return [(list(row["input_ids"]), list(row["labels"])) for row in dataset]


def assert_alike(
    rows: Rows, tokenizer: Any, folder: Path, loss_on: str, trl_rows: Rows | None = None, **settings: Any
) -> None:
    ours = by_ftrun(rows, tokenizer, folder, loss_on=loss_on, **settings)
    theirs = by_trl(
        rows if trl_rows is None else trl_rows,
        AutoTokenizer.from_pretrained(folder / "model"),
        folder,
        completion_only_loss=loss_on == "completion",
        assistant_only_loss=loss_on == "assistant",
        **settings,
    )
    assert ours == theirs
    assert sum(label != IGNORED for _, labels in ours for label in labels) > 0


# Rows of every format

PAIRS: Rows = [
    {"prompt": "Where is the lamp?\n", "completion": "In room 12."},
    {"prompt": "Where is the lamp?", "completion": " In room 12."},
    {"prompt": "Question: is it green?\n\nAnswer: ", "completion": "Yes, isn't it?"},
    {"prompt": "12", "completion": "34"},
    {"prompt": "It ends</s>", "completion": "\n\nand goes on.</s>"},
    {"prompt": "", "completion": "A prompt is not needed."},
    {"prompt": "No answer. ", "completion": ""},
]
CHATS: Rows = [
    {
        "messages": [
            {"role": "system", "content": "You know every room."},
            {"role": "user", "content": "Where is the lamp?"},
            {"role": "assistant", "content": "In room 12."},
            {"role": "user", "content": "  And the café 👍🏽?\n"},
            {"role": "assistant", "content": "Next to it.\n\n- left\n- right 👍"},
        ]
    },
    {
        "messages": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi, what's the matter?"},
        ]
    },
]
TOOLS = json.dumps(
    [
        {
            "type": "function",
            "function": {
                "name": "find",
                "description": "Finds a thing.",
                "parameters": {"type": "object", "properties": {"thing": {"type": "string"}}},
            },
        }
    ]
)
CALL = {"type": "function", "function": {"name": "find", "arguments": {"thing": "lamp"}}}
WITH_TOOLS: Rows = [
    {
        "messages": [
            {"role": "user", "content": "Where is the lamp?"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "name": "find", "content": "room 12"},
            {"role": "assistant", "content": "In room 12."},
        ],
        "tools": TOOLS,
    }
]


def as_pairs(chats: Rows) -> Rows:
    return [{"prompt": row["messages"][:-1], "completion": row["messages"][-1:]} for row in chats]


@pytest.mark.parametrize("kind", [*TOKENIZERS, "python"])
def test_text_and_pairs(kind: str, tmp_path: Path) -> None:
    if kind != "python":
        assert_alike([{"text": text} for text in TEXTS], load(kind), tmp_path, "all")
    assert_alike(PAIRS, load(kind), tmp_path, "completion")


def test_pairs_trained_whole(tmp_path: Path) -> None:
    assert_alike(PAIRS, load("llama 3"), tmp_path, "all")


@pytest.mark.parametrize("kind", ["qwen", "llama", "deepseek", "byte level, trimmed"])
def test_conversations(kind: str, tmp_path: Path) -> None:
    tokenizer = load_for("qwen2_5", kind)
    assert_alike(CHATS, tokenizer, tmp_path, "all")
    assert_alike(CHATS, tokenizer, tmp_path, "completion", trl_rows=as_pairs(CHATS))
    assert_alike(as_pairs(CHATS), tokenizer, tmp_path, "completion")
    assert_alike(as_pairs(CHATS), tokenizer, tmp_path, "assistant")
    assert_alike(CHATS, tokenizer, tmp_path, "assistant")
    assert_alike(WITH_TOOLS, tokenizer, tmp_path, "assistant")


TEMPLATES = sorted(
    file.name.removesuffix("_training.jinja")
    for file in files("trl").joinpath("chat_templates").iterdir()
    if file.name.endswith("_training.jinja")
    and not file.name.startswith("llava")  # which takes no plain text
)


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates_that_trl_ships(template: str, tmp_path: Path) -> None:
    # Some refuse a system message, and some write a preamble of more tokens than are kept by default.
    chats = [{"messages": [one for one in row["messages"] if one["role"] != "system"]} for row in CHATS]
    assert_alike(chats, load_for(template), tmp_path, "assistant", max_length=8192)
    pairs = as_pairs(chats)
    assert_alike(chats, load_for(template), tmp_path, "completion", trl_rows=pairs, max_length=8192)


def test_sharegpt(tmp_path: Path) -> None:
    rows = [
        {"conversations": [{"from": one["role"], "value": one["content"]} for one in row["messages"]]}
        for row in CHATS
    ]
    assert_alike(rows, load_for("qwen2_5"), tmp_path, "all")
    assert_alike(rows, load_for("qwen2_5"), tmp_path, "assistant", trl_rows=CHATS)


def test_alpaca(tmp_path: Path) -> None:
    rows = [{"instruction": "Name the room.", "input": "The lamp.", "output": "Room 12."}]
    asked = [{"role": "user", "content": "Name the room.\nThe lamp."}]
    chat = [{"prompt": asked, "completion": [{"role": "assistant", "content": "Room 12."}]}]
    assert_alike(rows, load_for("qwen2_5"), tmp_path / "chat", "completion", trl_rows=chat)
    headed = "### Instruction:\nName the room.\n\n### Input:\nThe lamp.\n\n### Response:\n"
    plain = [{"prompt": headed, "completion": "Room 12."}]
    assert_alike(rows, load("qwen"), tmp_path / "plain", "completion", trl_rows=plain)


# What is done to the rows after


def many(count: int = 40) -> Rows:
    chance = random.Random(3)
    words = " ".join(TEXTS).split()

    def text(least: int, most: int) -> str:
        return " ".join(chance.choices(words, k=chance.randint(least, most)))

    return [{"prompt": f"{text(1, 20)}\n", "completion": text(1, 30)} for _ in range(count)]


@pytest.mark.parametrize("mode", ["keep_start", "keep_end"])
@pytest.mark.parametrize("length", [16, 48])
def test_truncation(mode: str, length: int, tmp_path: Path) -> None:
    # Some prompts alone fill 16 tokens: those rows are dropped on both sides.
    assert_alike(many(), load("llama 3"), tmp_path, "completion", max_length=length, truncation_mode=mode)


@pytest.mark.parametrize("strategy", ["bfd", "bfd_split", "wrapped"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_packing(strategy: str, shuffle: bool, tmp_path: Path) -> None:
    assert_alike(
        many(),
        load("qwen"),
        tmp_path,
        "all",
        packing=True,
        packing_strategy=strategy,
        max_length=64,
        shuffle_dataset=shuffle,
        seed=5,
    )


def test_shuffling(tmp_path: Path) -> None:
    assert_alike(many(), load("qwen"), tmp_path, "completion", shuffle_dataset=True, seed=11)


def test_another_end_of_sequence_token(tmp_path: Path) -> None:
    tokenizer = load("qwen")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    assert_alike(PAIRS, tokenizer, tmp_path, "completion", eos_token="<|im_end|>")


# Every boundary: TRL's rule, said in one line, against each way to encode

FRAGMENTS = (
    *(
        " ",
        "  ",
        "   ",
        "\n",
        "\n\n",
        " \n",
        "\n ",
        "\r\n",
        "\t",
        "\u00a0",
        "\u2028",
        "\u200b",
        "\x1c",
        "\x85",
    ),
    *("a", "Answer", "the lamp", ":", "'", "'s", "'l", "l", "isn't", "--", "/", ".", "?!", "12", "3456", "7"),
    *("é", "e\u0301", "\u0301", "ñ", "ﬁ", "中文", "ア", "ﾞ", "\u1112", "\u1161", "\u11ab", "한"),
    *("👍🏽", "👍", "\u200d", "▁", "\0", "\1", "\ufeff", "Σ", "İ", "ß"),
    *("</s>", "<s>", "<|end|>", "</", "s>", "<|", "end|>", "<0x0A>"),
)


def made_up(count: int, seed: int) -> Iterator[tuple[str, str]]:
    chance = random.Random(seed)
    for _ in range(count):
        prompt, completion = ("".join(chance.choices(FRAGMENTS, k=chance.randint(0, 9))) for _ in range(2))
        yield prompt, completion


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_any_boundary(kind: str) -> None:
    tokenizer = load(kind)
    rows, expected = [], []
    for special in (True, False):
        for prompt, completion in made_up(300, seed=len(kind) + special):
            rows.append(Rendered(prompt + completion, special, prompt=prompt))
            head, whole = (
                tokenizer(text, add_special_tokens=special)["input_ids"]
                for text in (prompt, prompt + completion)
            )
            expected.append((whole, [(common_prefix_length(head, whole), len(whole))]))
    words = open_words(tokenizer.backend_tokenizer, [row.text for row in rows])
    assert (words is not None) == (kind in BY_WORDS)
    assert [tuple(row) for row in encode_whole(rows, tokenizer.backend_tokenizer)] == expected
    if words is not None:
        assert [tuple(row) for row in encode_words(rows, words)] == expected
        assert [tuple(row) for row in encode_words(rows, words)] == expected, "with every word known"


def test_tokenizers_of_transformers_are_encoded_by_words() -> None:
    kinds = (CohereTokenizer, GPT2Tokenizer, GPTNeoXTokenizer, Qwen2Tokenizer)
    pieces = {token: i for i, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "▁", "a", "▁a", "▁▁"])}
    merges = [("▁", "a"), ("▁", "▁")]
    tokenizers = [kind() for kind in kinds]
    tokenizers += [kind(vocab=pieces, merges=merges) for kind in (LlamaTokenizer, GemmaTokenizer)]
    assert all(open_words(one.backend_tokenizer, ()) is not None for one in tokenizers)
    # A token with a space after another character may reach across the end of a word.
    across = LlamaTokenizer(vocab=pieces | {"a▁": len(pieces)}, merges=[("a", "▁"), *merges])
    assert open_words(across.backend_tokenizer, ()) is None


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_any_spans(kind: str) -> None:
    """The tokens of spans of characters are those that `return_assistant_tokens_mask` marks."""
    tokenizer = load(kind)
    backend = tokenizer.backend_tokenizer
    rows, expected = [], []
    with whole_offsets(backend):
        for first, second in made_up(300, seed=len(kind)):
            text = f"{first}.{second}."
            spans = ((0, len(first) + 1), (len(first) + 1, len(text)))
            encoding = backend.encode(text, add_special_tokens=False)
            bounds = [
                (encoding.char_to_token(start), encoding.char_to_token(end - 1)) for start, end in spans
            ]
            if all(None not in pair for pair in bounds):
                rows.append(Rendered(text, False, spans=spans))
                expected.append((encoding.ids, [(start, end + 1) for start, end in bounds]))
        assert len(rows) > 50
        assert [tuple(row) for row in encode_whole(rows, backend)] == expected
        words = open_words(backend, [row.text for row in rows])
        if words is not None:
            assert [tuple(row) for row in encode_words(rows, words)] == expected


def test_a_span_that_ends_on_dropped_space_ends_there() -> None:
    """transformers marks the rest of the row there, which would train the user's turn."""
    tokenizer = load("word piece")
    row = Rendered("the lamp. the button", False, spans=((0, 10),))
    [tokens] = tokenise([[row]], tokenizer)
    trained = [label for label in tokens.labels.tolist() if label != IGNORED]
    assert tokenizer.decode(trained).replace(" ", "") == "thelamp."


def test_a_tokenizer_that_python_changes_is_asked_itself() -> None:
    class Shouting(PreTrainedTokenizerFast):  # type: ignore[misc]
        def __call__(self, text: Any, *arguments: Any, **settings: Any) -> Any:
            return super().__call__(text.upper(), *arguments, **settings)

    tokenizer = Shouting(tokenizer_object=byte_level(), eos_token="</s>", pad_token="<pad>")
    [tokens] = tokenise([[Rendered("the lamp", True, prompt="the")]], tokenizer)
    assert tokenizer.decode(tokens.ids) == "THE LAMP"
    assert tokenizer.decode([label for label in tokens.labels.tolist() if label != IGNORED]) == " LAMP"


def test_offsets_are_left_as_they_were() -> None:
    tokenizer = load("byte level, trimmed")
    before = tokenizer.backend_tokenizer.to_str()
    list(tokenise([[Rendered("the lamp", True, prompt="the ")]], tokenizer))
    assert tokenizer.backend_tokenizer.to_str() == before
