"""What nobody should write, and somebody will: values, pieces of text, and whole words."""

from __future__ import annotations

import random
from copy import deepcopy
from typing import Any

ODD_TEXTS = (
    "",
    " ",
    "\n",
    "\x00",
    "\x1b[31m",
    "\u202e",
    "\ufeff",
    "a\u0301" * 50,
    "😀" * 20,
    "x" * 5000,
    "~",
    "~nobody/x",
    "..",
    "/",
    "/dev/null",
    "/dev/zero",
    "/proc/self/mem",
    "circle",
    "data",
    "run:",
    "run:nothing",
    "stage:",
    "stage:sft",
    "null",
    "{}",
    "%s{0}{x}",
    "[bold]x[/]",
    "[/nope]",
    "::error::x",
    "a.b.c",
    "-1",
    "1e400",
    "nan",
    "../" * 40,
    "a/" * 200,
    "http://[::1",
    "file:///etc/passwd",
    "\\\\server\\share",
    "con:",
    "*.jsonl",
    "tiny/",
    "my.py:f",
    "my.py",
    ":",
)

ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**64),
    10**400,
    0.0,
    -0.0,
    1e-320,
    1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
    [],
    {},
    [None],
    [[]],
    [{}],
    {"": ""},
    {"a": {"b": {"c": []}}},
    [1, "a", None, {}],
    {1: 2},
    {None: None},
    {True: 1},
    {1.5: []},
    b"\x00\xff",
)


PLAUSIBLE: dict[str, list[Any]] = {
    "integer": [0, 1, 2, -1, 7, 1000, 2**31, 2**63, 10**30],
    "number": [0, 0.0, 1e-9, 2e-5, 0.1, 0.5, 1, 1.5, 1e9, 1e308, -1.0],
    "boolean": [True, False],
    "string": [text for text in ODD_TEXTS if "\x00" not in text],
    "null": [None],
    "array": [[], ["a"], [1, 2], [None]],
    "object": [{}, {"a": 1}, {"num_cycles": -1}, {"min_lr": 1}],
}
"""Values of each type of the JSON Schema, for settings that can be read."""

PIECES = (
    b"\x00",
    b"\t",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\x85",
    b"\xe2\x80\xa8",
    b"\r",
    b"\n---\n",
    b"\n...\n",
    b"%YAML 9.9\n---\n",
    b"&a [*a]",
    b"*nope",
    b"<<: *x\n",
    b"<<: {a: 1}\n",
    b"!!python/object/apply:os.system ['true']",
    b"!!binary gA==",
    b"!!set {a, b}",
    b"!!timestamp 2020-13-45",
    b"!x y",
    b"2020-01-01",
    b"9" * 5000,
    b"0x" + b"f" * 5000,
    b"1:2:3",
    b"? [a, b]\n: c\n",
    b"? {a: 1}\n",
    b"|\n  x",
    b">-9",
    b"'",
    b'"\\x',
    b'"\\ud800"',
    b"#",
    b": ",
    b"- ",
    b"{",
    b"]",
    b"[" * 3000,
    b"{a: " * 2000,
    b"- " * 3000,
    b"? " * 3000,
    b"extends: case.yaml\n",
    b"extends: [sft.yaml, dpo.yaml, /dev/null, circle, '']\n",
    b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
    b"d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n",
    b"x" * 100_000,
    b"k: v\n" * 5000,
)


def odd_value(rng: random.Random) -> Any:
    """A value that hardly any key takes."""
    kind = rng.random()
    if kind < 0.45:
        return rng.choice(ODD_TEXTS)
    if kind < 0.9:
        return deepcopy(rng.choice(ODD_VALUES))
    value: Any = rng.choice(ODD_TEXTS)
    for _ in range(rng.choice([3, 30, 90])):
        value = [value] if rng.random() < 0.5 else {"k": value}
    return value


def odd_set(text: str, rng: random.Random) -> str:
    """Words behind `--set`: keys of the recipe and others, and values of any kind."""
    keys = [line.partition(":")[0].strip("- ") for line in text.splitlines() if ":" in line]
    names = [
        rng.choice([*keys, "training", "data", "train", "0", "7", "99999999999", "", *ODD_TEXTS[:12]])
        for _ in range(rng.randint(1, 4))
    ]
    value = rng.choice(
        [str(odd_value(rng)), rng.choice(PIECES).decode("utf-8", "replace"), "1e-5", "[", "{a", "*a"]
    )
    return ".".join(names) + rng.choice(["=", "=", "=", "", "=="]) + value


def odd_word(rng: random.Random) -> str:
    """A word of a command line."""
    word = rng.choice(
        [
            *ODD_TEXTS,
            "dangling.yaml",
            "circle",
            ".",
            "data/support.train.jsonl",
            "nowhere/x.yaml",
            "-",
            "--",
            "-x",
            "--format",
            "--format=json",
            "--format=xml",
            "--fix",
            "-n",
            "0",
            "-1",
            "sft.yml",
            "TRAIN001",
            "case.yaml/x",
        ]
    )
    return word.replace("\x00", "\ufffd")  # the operating system passes none on
