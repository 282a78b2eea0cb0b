"""Write the customer support rows that `recipes/sft.yaml` trains on.

A row is one chat: a customer's message, and the routing line that the model learns to answer with,
`team: billing | product: kettle | urgency: high | order: given`. Messages are put together from parts
written for this project. What is held out is new in two ways: no pair of problem and product, and no
order number, occurs on both sides.

Usage: python .ci/make_support_data.py [FOLDER]   (the folder is recipes/data unless given)
"""

import json
import random
import sys
from collections.abc import Iterable
from pathlib import Path

TRAIN_ROWS = 900
HELDOUT_ROWS = 200
SEED = 20

PRODUCTS = (
    "kettle", "toaster", "blender", "heater", "lamp", "speaker", "camera", "printer", "router", "keyboard",
    "headset", "scale",
)  # fmt: skip

PROBLEMS = {
    "billing": (
        "I was charged twice for the {product}.",
        "The invoice for my {product} shows the wrong amount.",
        "My card was billed but I never bought a {product}.",
        "You took the money for the {product} two times.",
        "Please put our company name on the invoice for the {product}.",
        "The discount on the {product} is missing from the bill.",
        "Why is the price on my bill for the {product} higher than in the shop?",
        "The payment for the {product} failed, yet the money is gone.",
    ),
    "shipping": (
        "The {product} has not arrived.",
        "Where is my {product}?",
        "The tracking page for my {product} has not changed in days.",
        "The courier left the parcel with the {product} at the wrong address.",
        "Can you deliver the {product} to another address?",
        "The parcel with the {product} is still on its way.",
        "The delivery of the {product} is late.",
        "My {product} was sent to my old address.",
    ),
    "returns": (
        "I would like to send the {product} back.",
        "I changed my mind and want to return the {product}.",
        "Please exchange the {product} for another colour.",
        "How do I return a {product}?",
        "The {product} is too big, can I swap it?",
        "I got a {product} as a gift and want to give it back.",
        "Can I get a return label for the {product}?",
        "You sent the wrong {product}, so I want to exchange it.",
    ),
    "repair": (
        "The {product} does not switch on.",
        "The {product} stopped working.",
        "My {product} makes a strange noise.",
        "The button on the {product} is broken.",
        "The {product} turns itself off after a minute.",
        "There is a crack in the {product}.",
        "My {product} gets very hot and smells burnt.",
        "A red light blinks on the {product} and nothing works.",
    ),
    "account": (
        "I forgot the password I used to buy the {product}.",
        "I cannot log in to register my {product}.",
        "Please change the email address on the account with the {product}.",
        "Please delete my account, I only made it for the {product}.",
        "The app does not accept my password for the {product}.",
        "Someone else logged in and ordered a {product}.",
        "The {product} is linked to the wrong user name.",
        "My profile does not show the {product}.",
    ),
}

URGENCY = {
    "high": (
        "This is urgent.",
        "I need help today.",
        "Please call me right now.",
        "We cannot wait any longer.",
        "It has to be solved by tomorrow.",
        "Please reply immediately.",
    ),
    "low": (
        "There is no hurry.",
        "Take your time.",
        "Any time next month is fine.",
        "It is not important.",
        "Answer whenever you like.",
        "This can wait.",
    ),
    "normal": (
        "I look forward to your answer.",
        "Thank you for your help.",
        "What should I do?",
        "Please let me know.",
        "Any advice?",
        "When can you look at it?",
    ),
}

ORDERS = (
    "My order number is {order}.",
    "Order {order}.",
    "It is order {order}.",
    "The order is {order}.",
    "The receipt says order {order}.",
    "For reference: order {order}.",
)

# Numbers that are no order number, so that a digit alone does not tell whether there is one.
DETAILS = (
    "I paid {number} euros.",
    "I bought it {number} days ago.",
    "It is a gift for my sister.",
    "I have been a customer for years.",
    "I live on floor {number}.",
    "My neighbour has the same one.",
)

GREETINGS = ("Hello.", "Hi!", "Good morning.", "Dear support team,", "Hey there,", "Good evening.")

CLOSINGS = ("Thanks!", "Best regards", "Kind regards, {name}", "Cheers, {name}", "Yours, {name}")

NAMES = ("Ada", "Ben", "Chloe", "David", "Elif", "Femi", "Grace", "Hiro", "Ines", "Jonas")

Row = dict[str, list[dict[str, str]]]

Part = tuple[str, str, str]
"""Team, problem and product of a message."""


def write_message(draw: random.Random, problem: str, product: str, urgency: str, order: str | None) -> str:
    """Put one message together: the problem and up to three more sentences in any order, then a closing."""
    sentences = [problem, draw.choice(URGENCY[urgency])]
    if order is not None:
        sentences.append(draw.choice(ORDERS))
    if draw.random() < 0.35:
        sentences.append(draw.choice(DETAILS))
    draw.shuffle(sentences)
    greeting = draw.choice(GREETINGS) if draw.random() < 0.6 else ""
    closing = draw.choice(CLOSINGS) if draw.random() < 0.4 else ""
    message = " ".join(part for part in (greeting, *sentences, closing) if part)
    if draw.random() < 0.1:
        message = message.lower()
    return message.format(product=product, order=order, number=draw.randint(4, 99), name=draw.choice(NAMES))


def make_rows(draw: random.Random, count: int, parts: list[Part], orders: list[str]) -> list[Row]:
    """Draw `count` rows with different messages; two of three rows name an order."""
    rows: dict[str, Row] = {}
    while len(rows) < count:
        team, problem, product = parts[len(rows) % len(parts)]
        urgency = draw.choice(tuple(URGENCY))
        order = draw.choice(orders) if draw.random() < 0.67 else None
        message = write_message(draw, problem, product, urgency, order)
        stated = "given" if order else "missing"
        answer = f"team: {team} | product: {product} | urgency: {urgency} | order: {stated}"
        rows[message] = {
            "messages": [{"role": "user", "content": message}, {"role": "assistant", "content": answer}]
        }
    return list(rows.values())


def divide_parts(draw: random.Random) -> tuple[list[Part], list[Part], list[str]]:
    """Return the parts of held-out messages, those of training messages, and order numbers for both."""
    parts = [
        (team, problem, product) for team in PROBLEMS for problem in PROBLEMS[team] for product in PRODUCTS
    ]
    draw.shuffle(parts)
    orders = [str(number) for number in draw.sample(range(1000, 10000), 3000)]
    kept = len(parts) // 4
    return parts[:kept], parts[kept:], orders


def make_splits() -> tuple[list[Row], list[Row]]:
    """Return the training rows and the held-out rows, the same ones every time."""
    draw = random.Random(SEED)
    held, trained, orders = divide_parts(draw)
    heldout = make_rows(draw, HELDOUT_ROWS, held, orders[:600])
    train = make_rows(draw, TRAIN_ROWS, trained, orders[600:])
    shared = {row["messages"][0]["content"] for row in train} & {
        row["messages"][0]["content"] for row in heldout
    }
    assert not shared, f"held-out messages are in the training rows: {sorted(shared)}"
    return train, heldout


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write one JSON object a line."""
    path.write_bytes(b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows))


def main() -> None:
    """Write both files and print how many rows each has."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "recipes" / "data"
    for name, rows in zip(("train", "heldout"), make_splits(), strict=True):
        path = folder / f"support.{name}.jsonl"
        write_rows(path, rows)
        print(f"{path.name}: {len(rows)} rows")


if __name__ == "__main__":
    main()
