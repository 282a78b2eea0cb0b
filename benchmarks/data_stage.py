"""CPU seconds that the data stage takes, all its checks included, beside TRL's own preparation of the same rows.

    python benchmarks/data_stage.py [--rows 50000] [--pairs 3]

Rows and tokenizer are made here, from a seed: words by Zipf's law, and a byte-level BPE of 16,000 tokens
trained on them. ftrun and TRL run in turn, each in a process of its own, on one thread, without a cache:
compare the ratios of pairs, since machines are shared. Both read the same JSON Lines file, and the ids and
labels that come out are compared. Importing the libraries is not counted for either.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

SEED = 0
VOCABULARY = 16_000
WORDS = 20_000
MAX_LENGTH = 512
KINDS = {"pairs": "prompt and completion", "chats": "two turns, loss on the assistant"}
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "FTRUN_PLUGINS": "",
}


def main() -> None:
    """Make the rows, run each pair and print a table for each kind of row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--child", nargs=2, metavar=("WHO", "RECIPE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure(*options.child)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder, options.rows)
        write_model(folder)
        for kind, words in KINDS.items():
            print(f"\n{options.rows:,} rows, {words}")
            compare(folder / f"{kind}.yaml", options.pairs)


def compare(recipe: Path, pairs: int) -> None:
    """Run ftrun and TRL in turn and print seconds and ratio of each pair."""
    print(f"{'pair':>6} {'ftrun':>9} {'of it checks':>13} {'TRL':>9} {'TRL / ftrun':>12}")
    ratios = []
    for pair in range(1, pairs + 1):
        ours, theirs = run_child("ftrun", recipe), run_child("trl", recipe)
        if ours["digest"] != theirs["digest"]:
            sys.exit(f"ids or labels differ: ftrun {ours}, TRL {theirs}")
        ratios.append(theirs["seconds"] / ours["seconds"])
        seconds = f"{ours['seconds']:>8.2f}s {ours['checks']:>12.2f}s {theirs['seconds']:>8.2f}s"
        print(f"{pair:>6} {seconds} {ratios[-1]:>11.2f}×")
    print(
        f"median ratio {statistics.median(ratios):.2f}; {ours['tokens']:,} tokens; ids and labels are equal"
    )


def run_child(who: str, recipe: Path) -> dict[str, Any]:
    """One measurement in a process of its own, with a cache of its own."""
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(
            [sys.executable, __file__, "--child", who, str(recipe)],
            env={**os.environ, **ONE_THREAD, "HF_HOME": cache},
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(who: str, recipe: str) -> None:
    """Print the CPU seconds of one preparation, and a digest of what came out."""
    prepare = prepare_with_ftrun if who == "ftrun" else prepare_with_trl
    prepare(Path(recipe).with_name("warm.yaml"))  # imports, and what is made once
    began = time.process_time()
    dataset, checks = prepare(Path(recipe))
    seconds = time.process_time() - began
    tokens, digest = digest_dataset(dataset)
    print(json.dumps({"seconds": seconds, "checks": checks, "tokens": tokens, "digest": digest}))


def prepare_with_ftrun(recipe: Path) -> tuple[Dataset, float]:
    """Climb to the data stage with every check up to it; the data set, and the seconds of the data checks."""
    from ftrun.checks.catalogue import load_checks
    from ftrun.checks.stages import AtData
    from ftrun.runner.preflight import ascend

    ascent = ascend(recipe, checks=load_checks("data"), folder=lambda file: recipe.parent, upto=AtData)
    assert isinstance(ascent.at, AtData), ascent.report
    checks = sum(result.seconds for result in ascent.report.results if result.check.stage is AtData)
    return ascent.at.train_dataset, checks


def prepare_with_trl(recipe: Path) -> tuple[Dataset, float]:
    """Read the rows with `datasets` and let SFTTrainer prepare them."""
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    datasets.disable_progress_bars()
    model = recipe.parent / "model"
    rows = datasets.load_dataset("json", data_files=str(recipe.with_suffix(".jsonl")), split="train")
    arguments = SFTConfig(
        output_dir=str(recipe.parent / "trl"),
        max_length=MAX_LENGTH,
        assistant_only_loss=recipe.stem == "chats",
        report_to="none",
        use_cpu=True,
        bf16=False,
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(model),
        args=arguments,
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(model),
    )
    return trainer.train_dataset, 0.0


def digest_dataset(dataset: Dataset) -> tuple[int, str]:
    """Tokens, and SHA-256 over the lengths, ids and labels of all rows."""
    import numpy as np

    table = dataset.with_format("arrow")[:]
    ids, labels = (table.column(name).combine_chunks() for name in ("input_ids", "labels"))
    parts = (ids.value_lengths(), ids.flatten(), labels.flatten())
    arrays = [np.ascontiguousarray(part.to_numpy(zero_copy_only=False), np.int64) for part in parts]
    return len(arrays[1]), hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def write_rows(folder: Path, count: int) -> None:
    """Write a file of rows and a recipe for each kind, and a small one to warm up with."""
    text = make_text()

    def pair() -> dict[str, Any]:
        return {"prompt": f"{text(20, 60)}\n", "completion": text(35, 85)}

    def chat() -> dict[str, Any]:
        roles = ("user", "assistant") * 2
        return {"messages": [{"role": role, "content": text(5, 20)} for role in roles]}

    for name, make, number in (("pairs", pair, count), ("chats", chat, count), ("warm", pair, 32)):
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(make()) + "\n" for _ in range(number))
        recipe = {
            "name": name,
            "method": "sft",
            "model": {"path": "model"},
            "data": {"train": [{"path": f"{name}.jsonl"}]},
            "training": {"max_length": MAX_LENGTH, "bf16": False, "use_cpu": True},
            "output": str(folder / "runs"),
        }
        (folder / f"{name}.yaml").write_text(json.dumps(recipe), encoding="utf-8")


def make_text() -> Callable[[int, int], str]:
    """A function that writes sentences of so many words: made-up words, as often as Zipf's law has them."""
    chance = random.Random(SEED)
    words = make_words(chance)
    shares = list(itertools.accumulate(1 / (rank + 2.7) for rank in range(len(words))))

    def sentence() -> list[str]:
        chosen = chance.choices(words, cum_weights=shares, k=chance.randint(5, 16))
        if chance.random() < 0.3:
            chosen[chance.randrange(len(chosen))] = str(chance.randint(1, 2000))
        if len(chosen) > 8:
            chosen[4] += ","
        return [chosen[0].capitalize(), *chosen[1:-1], chosen[-1] + chance.choice("....?!")]

    def text(least: int, most: int) -> str:
        wanted = chance.randint(least, most)
        written: list[str] = []
        while len(written) < wanted:
            written += sentence()
        return " ".join(written)

    return text


def make_words(chance: random.Random) -> list[str]:
    """Words of one to three syllables, short ones first, as the frequent words of a language are."""
    starts = [
        "b",
        "bl",
        "ch",
        "d",
        "dr",
        "f",
        "fl",
        "g",
        "gr",
        "h",
        "j",
        "k",
        "l",
        "m",
        "n",
        "p",
        "pr",
        "s",
        "st",
        "tr",
    ]
    middles = ["a", "e", "i", "o", "u", "ai", "ea", "ee", "ou"]
    ends = ["", "", "n", "r", "s", "t", "l", "m", "nd", "st", "ck", "ng"]
    words: set[str] = set()
    while len(words) < WORDS:
        syllables = chance.choice((1, 1, 2, 2, 3))
        words.add("".join(chance.choice(part) for _ in range(syllables) for part in (starts, middles, ends)))
    return sorted(words, key=lambda word: (len(word), word))


def write_model(folder: Path, *, hidden_size: int = 32, num_hidden_layers: int = 1) -> None:
    """Write a small model, and a tokenizer trained on the pairs, with Qwen 2.5's chat template."""
    from importlib.resources import files

    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    with (folder / "pairs.jsonl").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in itertools.islice(file, 20_000)]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator((row["prompt"] + row["completion"] for row in rows), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=SPECIAL[0], eos_token=SPECIAL[2])
    tokenizer.chat_template = (
        files("trl").joinpath("chat_templates/qwen2_5.jinja").read_text(encoding="utf-8")
    )
    tokenizer.save_pretrained(folder / "model")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=hidden_size,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=2,
        max_position_embeddings=MAX_LENGTH,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")


if __name__ == "__main__":
    main()
