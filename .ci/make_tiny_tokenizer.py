"""Train the tokenizer of the built-in model `tiny` on text of our own.

It is a byte-level BPE, so every text of any language encodes and decodes exactly. Digits are tokens of
their own. The text is the support rows of `make_support_data.py` and the paragraphs below. The chat template
beside the tokenizer is written by hand and left alone.

Usage: python .ci/make_tiny_tokenizer.py [FOLDER]
The folder is runner/ftrun/runner/tiny_tokenizer unless given.
"""

import json
import sys
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

ROOT = Path(__file__).parents[1]
TOKENS = 1024
SPECIAL = ("<|pad|>", "<|begin|>", "<|im_start|>", "<|im_end|>")
CONTEXT = 2048  # positions of the model, in tokens

PROSE = """
A small model is a good place to look for a large mistake. It answers in a moment, it fits on any machine,
and it makes the same errors as its bigger relatives: it repeats itself when the end of an answer was never
shown to it, it forgets what it knew when the learning rate is too high, and it learns the questions by
heart when they are part of the loss. Before a long run begins, read a few rows exactly as the model will
see them. Which words are trained? Where does each answer stop? Is anything cut off? Then look at the
numbers again after the first hundred steps.

You are a helpful assistant. Please explain how this works, step by step, and keep the answer short. Thank
you for asking! Yes, you can do that. No, it is not possible because the file does not exist. I don't know.
Let's think about what would happen if we were to try it another way. In summary, there are three reasons:
first, time; second, money; third, people. The weather today is warm and sunny in the north, with some rain
in the evening.
"""

MATHS = """
Question: A shop sells 12 boxes with 8 pens each. How many pens are there in all? Answer: 12 × 8 = 96. If x
+ 3 = 10, then x = 7. The sum of the first n numbers is n(n + 1)/2. The area of a circle with radius r is
πr². Half of 50 is 25, and 25% of 200 is 50. The derivative of x^2 is 2x. So the total is $3.50 + $1.25 =
$4.75. The answer is 42. Let f(x) = ax + b, where a > 0 and b < 1. The probability is 1/6, so the mean is
3.5.
"""

CODE = '''
def mean(values: list[float]) -> float:
    """Return the mean of the values."""
    if not values:
        raise ValueError("no values")
    return sum(values) / len(values)


class Counter:
    def __init__(self, start: int = 0) -> None:
        self.count = start

    def add(self, name: str) -> None:
        self.count += 1
        print(f"{name}: {self.count}")


for index, line in enumerate(lines):
    try:
        row = json.loads(line)
    except ValueError as error:
        print(index, error)

import math
from pathlib import Path
assert result == [1, 2, 3] and result is not None
const names = items.map((item) => item.name);
function add(a, b) { return a + b; }
SELECT name, count(*) FROM orders WHERE price > 10 GROUP BY name;
<tool_call>{"name": "search", "arguments": {"query": "weather"}}</tool_call>
{"type": "function", "function": {"name": "get_price", "parameters": {"type": "object", "properties": {}}}}
'''


def read_texts() -> list[str]:
    """Return the text that the tokenizer learns from, the same way round every time."""
    lines = (ROOT / "recipes" / "data" / "support.train.jsonl").read_text(encoding="utf-8").splitlines()
    contents = [turn["content"] for line in lines for turn in json.loads(line)["messages"]]
    # Twenty times: the words of hundreds of rows would otherwise leave no tokens for English, maths and code.
    return contents + [PROSE, MATHS, CODE, "system\n", "user\n", "assistant\n", "tool\n"] * 20


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Return a byte-level BPE of `TOKENS` tokens without normalisation and without a post-processor."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def describe() -> dict[str, object]:
    """Return tokenizer_config.json.

    The class is the one that takes tokenizer.json as it is; `LlamaTokenizer` would build its own instead.
    """
    return {
        "bos_token": "<|begin|>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": CONTEXT,
        "pad_token": "<|pad|>",
        "padding_side": "right",
        "tokenizer_class": "TokenizersBackend",
    }


def main() -> None:
    """Write tokenizer.json and tokenizer_config.json and print the number of tokens."""
    folder = (
        Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "runner" / "ftrun" / "runner" / "tiny_tokenizer"
    )
    tokenizer = train_tokenizer(read_texts())
    (folder / "tokenizer.json").write_text(
        tokenizer.to_str(pretty=True) + "\n", encoding="utf-8", newline="\n"
    )
    config = json.dumps(describe(), indent=2) + "\n"
    (folder / "tokenizer_config.json").write_text(config, encoding="utf-8", newline="\n")
    print(f"{tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
