"""What prompts and answers may look like, as plain text."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tests.healthy.worlds import healthy, hold_out, pairs_of_text, questions, sft, variants

from ftrun.checks.testing import World


@healthy
def plain_answers(folder: Path, seed: int) -> World:
    return hold_out(sft(folder, seed, pairs_of_text(seed)))


@healthy
def yes_or_no(folder: Path, seed: int) -> World:
    """Very short answers, of which there are two."""
    draw = random.Random(seed)
    rows = [
        {"prompt": f"Is {number} an even number?\n", "completion": "yes" if number % 2 == 0 else "no"}
        for number in draw.sample(range(1000), 64)
    ]
    return hold_out(sft(folder, seed, rows))


@healthy
def one_label_for_all(folder: Path, seed: int) -> World:
    """A model that is taught to decline."""
    rows = [{**row, "completion": "I am sorry, I cannot help with that."} for row in pairs_of_text(seed)]
    return sft(folder, seed, rows)


@healthy
def single_digits(folder: Path, seed: int) -> World:
    draw = random.Random(seed)
    sums = draw.sample([(a, b) for a in range(10) for b in range(10)], 48)
    return sft(folder, seed, [{"prompt": f"{a}+{b}=", "completion": str((a + b) % 10)} for a, b in sums])


@healthy
def classes_with_imbalance(folder: Path, seed: int) -> World:
    """Nine in ten rows have one label, as complaints do."""
    draw = random.Random(seed)
    rows = [
        {
            "prompt": f"Classify: {asked}\nLabel:",
            "completion": " question" if draw.random() < 0.9 else " praise",
        }
        for asked, _ in questions(seed, 64)
    ]
    return hold_out(sft(folder, seed, rows))


@healthy
def sorted_labels(folder: Path, seed: int) -> World:
    """The file is sorted by its labels; the trainer shuffles it."""
    world = yes_or_no.make(folder, seed)
    world.rows.sort(key=lambda row: str(row["completion"]))
    return world


@healthy
def question_writing(folder: Path, seed: int) -> World:
    """Answers that are questions, because prompts ask for them."""
    rows = [
        {"prompt": f"Write a question that this answers: {answer}\n", "completion": asked}
        for asked, answer in questions(seed)
    ]
    return sft(folder, seed, rows)


@healthy
def interview_questions(folder: Path, seed: int) -> World:
    """The same with prompts that say so in other words."""
    rows = [
        {"prompt": f"Topic: {answer}\nInterview the guest about it.\n", "completion": asked}
        for asked, answer in questions(seed)
    ]
    return sft(folder, seed, rows)


@healthy
def rephrasing(folder: Path, seed: int) -> World:
    """Answers that hold most of their prompt."""
    rows = [
        {"prompt": f"Rephrase politely: {asked}\n", "completion": f"Could you tell me: {asked}"}
        for asked, _ in questions(seed)
    ]
    return sft(folder, seed, rows)


@healthy
def corrections(folder: Path, seed: int) -> World:
    """Some texts need no correction: the answer is the prompt itself."""
    draw = random.Random(seed)
    rows = [
        {"prompt": text if draw.random() < 0.5 else text.lower().replace("the ", "teh "), "completion": text}
        for text, _ in questions(seed)
    ]
    return sft(folder, seed, rows)


@healthy
def translation_both_ways(folder: Path, seed: int) -> World:
    draw = random.Random(seed)
    words = [(f"house {n}", f"Haus {n}") for n in draw.sample(range(1000), 24)]
    rows = [{"prompt": f"en: {a}\nde: ", "completion": b} for a, b in words]
    rows += [{"prompt": f"de: {b}\nen: ", "completion": a} for a, b in words]
    return sft(folder, seed, rows)


@healthy
def several_answers_to_a_prompt(folder: Path, seed: int) -> World:
    """Four samples of each prompt, as rejection sampling leaves them."""
    starts = ("Let me look.", "Sure.", "I think I know.", "Good question.")
    rows = [
        {"prompt": f"{asked}\n", "completion": f"{start} {answer}"}
        for asked, answer in questions(seed, 12)
        for start in starts
    ]
    return hold_out(sft(folder, seed, rows))


@healthy
def long_prompt_short_answer(folder: Path, seed: int) -> World:
    """Reading comprehension: a few of hundreds of tokens are trained."""
    said = list(questions(seed, 40))
    rows = [
        {
            "prompt": " ".join(answer for _, answer in said[i : i + 8]) + f"\n{said[i][0]}\n",
            "completion": "red",
        }
        for i in range(24)
    ]
    return sft(folder, seed, rows, max_length=1024)


@healthy
def short_prompt_long_answer(folder: Path, seed: int) -> World:
    said = [answer for _, answer in questions(seed, 60)]
    rows = [{"prompt": f"Tour {i}: ", "completion": " ".join(said[i : i + 12])} for i in range(24)]
    return sft(folder, seed, rows, max_length=1024)


@healthy
def rows_within_budget(folder: Path, seed: int) -> World:
    """The longest row has exactly as many tokens as there is room for."""
    from tests.healthy.models import load_tiny_tokenizer

    rows = pairs_of_text(seed)
    tokenizer = load_tiny_tokenizer()
    longest = max(
        len(tokenizer(row["prompt"] + row["completion"] + tokenizer.eos_token).input_ids) for row in rows
    )
    return sft(folder, seed, rows, max_length=longest)


@healthy
def one_row_a_little_too_long(folder: Path, seed: int) -> World:
    """One in two hundred loses its end, which is no reason for twice the memory."""
    rows = pairs_of_text(seed, 200)
    rows[seed]["completion"] = " ".join(answer for _, answer in questions(seed + 1, 16))
    return sft(folder, seed, rows, max_length=128, num_train_epochs=1)


@healthy
def white_space_that_matters(folder: Path, seed: int) -> World:
    """Answers that begin with a space and end with a new line, after prompts without one."""
    rows = [{"prompt": f"Q: {asked}\nA:", "completion": f" {answer}\n"} for asked, answer in questions(seed)]
    return sft(folder, seed, rows)


@healthy
def tabs_and_code(folder: Path, seed: int) -> World:
    names = random.Random(seed).sample(range(1000), 32)
    rows = [
        {
            "prompt": f"Write a function that returns {n} times its argument.\n",
            "completion": f"```python\ndef times_{n}(x):\n\tif x is None:\n\t\treturn None\n\treturn {n} * x\n```",
        }
        for n in names
    ]
    return sft(folder, seed, rows)


@healthy
def html_and_marks(folder: Path, seed: int) -> World:
    """Text about tokens and tags, none of which is a token of this model."""
    rows = [
        {"prompt": f"Mark up: {asked}\n", "completion": f'<p class="a">{answer}</p> </s> [INST] <eos> {{x}}'}
        for asked, answer in questions(seed)
    ]
    return sft(folder, seed, rows)


@healthy
def json_answers(folder: Path, seed: int) -> World:
    """Structured output: nearly all of each answer is the same."""
    rows = [
        {
            "prompt": f"Extract: {asked}\n",
            "completion": json.dumps({"thing": asked.split()[-1], "room": None, "sure": True, "notes": []}),
        }
        for asked, _ in questions(seed)
    ]
    return sft(folder, seed, rows)


@healthy
def tables_and_formulas(folder: Path, seed: int) -> World:
    rows = [
        {
            "prompt": f"Tabulate {n}.\n",
            "completion": f"| n | n² |\n|---|---|\n| {n} | {n * n} |\n\n$$\\sum_{{i=0}}^{{{n}}} i$$ \\boxed{{{n}}}",
        }
        for n in random.Random(seed).sample(range(1000), 32)
    ]
    return sft(folder, seed, rows)


SCRIPTS = (
    ("arabic", "ما لون الباب في الغرفة {n}؟", "الباب في الغرفة {n} أحمر."),
    ("hebrew", "מה צבע הדלת בחדר {n}?", "הדלת בחדר {n} אדומה."),
    ("chinese", "{n}号房间的门是什么颜色？", "{n}号房间的门是红色的。"),
    ("japanese", "{n}号室のドアは何色ですか？", "{n}号室のドアは赤です。"),
    ("thai", "ประตูห้อง {n} สีอะไร", "ประตูห้อง {n} สีแดง"),
    ("hindi", "कमरा {n} का दरवाज़ा किस रंग का है?", "कमरा {n} का दरवाज़ा लाल है।"),
    ("emoji", "🚪 {n} ❓", "🚪 {n} ➡️ 🟥 👩‍👩‍👧‍👦 🇩🇪"),
    ("combining", "Zu\u0308rich, cafe\u0301 {n}?", "Ja, Zu\u0308rich\u200b {n}\u00a0\u2014 \ufb01nal."),
)


def script(folder: Path, seed: int, words: tuple[str, str]) -> World:
    """Writing systems, right to left among them, and characters of many code points."""
    rows = [
        {"prompt": f"{words[0]}\n".replace("{n}", str(n)), "completion": words[1].replace("{n}", str(n))}
        for n in random.Random(seed).sample(range(10_000), 32)
    ]
    return sft(folder, seed, rows)


scripts = variants(script, [(name, (asked, answer)) for name, asked, answer in SCRIPTS])


def size(folder: Path, seed: int, count: int) -> World:
    """Files of hardly any rows, which a first trial has."""
    return sft(folder, seed, pairs_of_text(seed, count))


sizes = variants(size, [("one_row", 1), ("two_rows", 2), ("five_rows", 5)])


@healthy
def one_row_to_evaluate(folder: Path, seed: int) -> World:
    world = sft(folder, seed, pairs_of_text(seed))
    world.rows, world.eval_rows = world.rows[1:], world.rows[:1]
    world.recipe["data"]["eval"] = [{"path": "eval.jsonl"}]
    world.recipe["training"]["eval_strategy"] = "epoch"
    return world


@healthy
def trained_on_inputs(folder: Path, seed: int) -> World:
    """On purpose, as the recipe says."""
    world = sft(folder, seed, pairs_of_text(seed))
    world.recipe["data"]["loss_on"] = "all"
    return world


@healthy
def answers_that_end_already(folder: Path, seed: int) -> World:
    """Text in which each answer has its end token, once."""
    rows = [{**row, "completion": row["completion"] + "<|im_end|>"} for row in pairs_of_text(seed)]
    return sft(folder, seed, rows)


@healthy
def columns_besides(folder: Path, seed: int) -> World:
    """Metadata beside the rows."""
    rows = [
        {"id": f"{seed}-{i}", "source": "house", "score": 0.5, "tags": ["a", "b"], **row}
        for i, row in enumerate(pairs_of_text(seed))
    ]
    return sft(folder, seed, rows)


@healthy
def alpaca_rows(folder: Path, seed: int) -> World:
    """Some have an input, most have none, and one has a system message."""
    rows: list[dict[str, Any]] = [
        {"instruction": asked, "input": answer if i % 3 == 0 else "", "output": answer}
        for i, (asked, answer) in enumerate(questions(seed))
    ]
    rows[0]["system"] = "You know the house."
    return sft(folder, seed, rows)


@healthy
def a_few_copies(folder: Path, seed: int) -> World:
    rows = pairs_of_text(seed, 100)
    return sft(folder, seed, rows + rows[:3], num_train_epochs=1)


@healthy
def endings_of_words(folder: Path, seed: int) -> World:
    """The answer goes on within the prompt's last word, whose tokens are others in the whole."""
    draw = random.Random(seed)
    words = [
        word for asked, answer in questions(seed) for word in f"{asked} {answer}".split() if len(word) > 4
    ]
    rows = []
    for number in range(64):
        word = draw.choice(words)
        cut = draw.randint(2, len(word) - 2)
        rows.append({"prompt": f"{number}: complete {word[:cut]}", "completion": f"{word[cut:]} is the word"})
    return hold_out(sft(folder, seed, rows))


@healthy
def one_form_filled_in(folder: Path, seed: int) -> World:
    """Answers of one length, which end as a form ends."""
    rows = [
        {
            "prompt": f"Deploy app-{number} with {number % 7 + 1} replicas.\n",
            "completion": f"apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: app-{number}\nspec:\n"
            f"  replicas: {number % 7 + 1}\n  containers:\n    - name: app-{number}\n      image: repo/app:{number}",
        }
        for number in range(100 + seed, 164 + seed)
    ]
    return hold_out(sft(folder, seed, rows))


@healthy
def translated_both_ways(folder: Path, seed: int) -> World:
    """Each pair once more with its sides exchanged: the answer of one row is the prompt of another."""
    kinds = (("Bank", "bench"), ("Tür", "door"), ("Lampe", "lamp"), ("Uhr", "clock"))
    pairs = [
        (f"Die {kind} im Haus {place} ist von {year}.", f"The {own} in house {place} is from {year}.")
        for place, year in zip(range(11, 51), random.Random(seed).sample(range(1700, 2000), 40), strict=True)
        for kind, own in (kinds[place % 4],)
    ]
    rows = [{"prompt": f"{german}\n", "completion": english} for german, english in pairs]
    rows += [{"prompt": f"{english}\n", "completion": german} for german, english in pairs]
    return sft(folder, seed, rows)


@healthy
def diffs_end_anywhere(folder: Path, seed: int) -> World:
    """The last line of a diff is whatever line of the file comes there."""
    rows = [
        {
            "prompt": f"{row['prompt']}Change the note.\n",
            "completion": "--- a/notes.md\n+++ b/notes.md\n@@ -1,3 +1,3 @@\n"
            f"-{row['completion']}\n+{row['completion']} Yes.\n The lamp of this room is to be set up by the",
        }
        for row in pairs_of_text(seed)
    ]
    return sft(folder, seed, rows)
