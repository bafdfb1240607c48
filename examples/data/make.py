#!/usr/bin/env python3
"""Writes train.jsonl and heldout.jsonl beside this file: sentences, and what they say as JSON.

The held-out sentences use names that no training line has, so that an adapter which learnt its lines by heart fails.
"""

import json
import pathlib
import random
import sys

here = pathlib.Path(__file__).parent
sys.path.insert(0, str(here.parent / "base-model"))
from text import COLOURS, DAYS, ITEMS, NAMES, NUMBERS, PLACES, VERBS  # noqa: E402

HELD_OUT_NAMES = NAMES[::10]


def line(rng, names):
    who, verb, n = rng.choice(names), rng.choice(VERBS), rng.randrange(1, len(NUMBERS))
    colour, item, place, day = rng.choice(COLOURS), rng.choice(ITEMS), rng.choice(PLACES), rng.choice(DAYS)
    things = f"{NUMBERS[n]} {colour} {item}"
    sentence = rng.choice(
        [
            f"{who} {verb} {things} at the {place} on {day}.",
            f"On {day} {who} {verb} {things} at the {place}.",
            f"At the {place} {who} {verb} {things} on {day}.",
        ]
    )
    record = {"who": who, "count": n + 1, "colour": colour, "item": item, "place": place, "day": day}
    return f"{sentence} -> {json.dumps(record)}"


def write(name, seed, n, names):
    rng = random.Random(seed)
    with open(here / name, "w", encoding="utf8") as out:
        for _ in range(n):
            out.write(json.dumps({"text": line(rng, names)}) + "\n")


write("train.jsonl", 1, 1000, [name for name in NAMES if name not in HELD_OUT_NAMES])
write("heldout.jsonl", 2, 40, HELD_OUT_NAMES)
