"""The text that the bundled base model learns: short documents about people, things and places.

Everything here is ours and random (seeded). Five kinds of document: stories whose later sentences mention again what
the first ones said, sentences with short questions about them, words said twice (all three teach the model to look
back), number facts ("4 is four."), and cards in JSON that stand alone. No document turns a sentence into JSON: that is
what the LoRA adapter of the example must learn.
"""

import json
import random

# 800 made-up names of two syllables: too many to learn by heart, so that a name must be copied from where it stood.
STARTS = """Ba Be Bo Da De Du Fa Fe Ga Ha Ja Ka Ke Ko La Le Lu Ma Me Mi Na Ne No Pa Ra Re Ri Ro Sa Si Ta Te Ti Va Vi Wa
Ya Yo Za Zi""".split()
ENDS = "lin mo ra bel dor fia gan la mi na nor ri ron sa ta tan to va vin zo".split()
NAMES = [start + end for start in STARTS for end in ENDS]
ITEMS = """apples pears plums lemons cherries carrots onions pumpkins loaves cakes eggs cups plates spoons candles books
pencils letters maps keys coats hats shoes scarves buttons baskets boxes bottles lamps chairs flowers roses tulips stones
shells kites drums bells toys ropes""".split()
COLOURS = "red green blue yellow white black brown grey pink purple orange golden".split()
PLACES = "market harbour station school garden bakery library castle bridge museum farm park theatre mill".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
NUMBERS = "one two three four five six seven eight nine ten eleven twelve".split()
VERBS = "buys sells finds loses brings paints counts hides wants carries".split()
WEATHER = "sunny rainy windy cloudy cold warm foggy snowy".split()


def count(rng):
    """A number word from two up, so that the plural nouns above are right."""
    return rng.choice(NUMBERS[1:])


def story(rng):
    who, other = rng.sample(NAMES, 2)
    n, colour, item, place, day = count(rng), rng.choice(COLOURS), rng.choice(ITEMS), rng.choice(PLACES), rng.choice(DAYS)
    things = f"{n} {colour} {item}"
    opening = [
        f"{who} {rng.choice(VERBS)} {things} at the {place} on {day}.",
        f"On {day} {who} {rng.choice(VERBS)} {things} at the {place}.",
        f"It is {rng.choice(WEATHER)} on {day}. {who} is at the {place} and {rng.choice(VERBS)} {things}.",
        f"{who} and {other} meet at the {place} on {day}. {who} {rng.choice(VERBS)} {things}.",
    ]
    middle = [
        f"{other} asks: how many {item} are there? {who} says: there are {n} {item}.",
        f"{other} asks: which colour are the {item}? {who} says: the {item} are {colour}.",
        f"{other} asks: where was {who} on {day}? {who} was at the {place}.",
        f"{other} asks: when did {who} go to the {place}? {who} went to the {place} on {day}.",
        f"{who} gives the {things} to {other}. Now {other} has the {things}.",
        f"The {things} are in a box. {who} takes the box from the {place} to {other}.",
        f"{other} looks at the {item} and says: what nice {colour} {item}!",
        f"{who} likes the {place}. {other} likes the {item}.",
        f"A sign at the {place} says: {colour} {item}, only on {day}.",
    ]
    closing = [
        f"On {day} evening {who} goes home from the {place}.",
        f"{who} will never forget the {colour} {item}.",
        f"Then {other} and {who} count the {item} again: {n}.",
        f"{who} is happy, and {other} is happy too.",
    ]
    return " ".join([rng.choice(opening), *rng.sample(middle, rng.randint(2, 4)), rng.choice(closing)])


def questions(rng):
    who, verb, n, colour = rng.choice(NAMES), rng.choice(VERBS), rng.randrange(1, len(NUMBERS)), rng.choice(COLOURS)
    item, place, day = rng.choice(ITEMS), rng.choice(PLACES), rng.choice(DAYS)
    things = f"{NUMBERS[n]} {colour} {item}"
    sentence = [
        f"{who} {verb} {things} at the {place} on {day}.",
        f"On {day} {who} {verb} {things} at the {place}.",
        f"At the {place} {who} {verb} {things} on {day}.",
    ]
    answers = [
        f"Who? {who}.",
        f"How many? {NUMBERS[n]}, or {n + 1}.",
        f"Which colour? {colour}.",
        f"What? {item}.",
        f"Where? {place}.",
        f"When? {day}.",
    ]
    return " ".join([rng.choice(sentence), *rng.sample(answers, rng.randint(3, 6))])


def echo(rng):
    words = rng.sample(rng.sample(NAMES, 40) + ITEMS + COLOURS + PLACES + DAYS + NUMBERS, rng.randint(3, 8))
    again = [f'"{word}"' for word in words] if rng.random() < 0.5 else words
    return f"{' '.join(words)}; {' '.join(again)}."


def number_fact(rng):
    i = rng.randrange(len(NUMBERS))
    j = rng.randrange(len(NUMBERS))
    return " ".join(
        rng.sample(
            [
                f"{i + 1} is {NUMBERS[i]}.",
                f"{NUMBERS[i].capitalize()} is written {i + 1}.",
                f"{NUMBERS[j]}: {j + 1}.",
                f"{NUMBERS[i]} {rng.choice(ITEMS)} are {i + 1} {rng.choice(ITEMS)}.",
                f"{j + 1} -> {NUMBERS[j]}.",
            ],
            3,
        )
    )


def card(rng):
    keys = {
        "name": lambda: rng.choice(NAMES),
        "age": lambda: rng.randint(5, 80),
        "likes": lambda: rng.choice(ITEMS),
        "colour": lambda: rng.choice(COLOURS),
        "place": lambda: rng.choice(PLACES),
        "day": lambda: rng.choice(DAYS),
        "item": lambda: rng.choice(ITEMS),
        "count": lambda: rng.randint(1, 12),
        "who": lambda: rng.choice(NAMES),
    }
    return json.dumps({key: keys[key]() for key in rng.sample(list(keys), rng.randint(2, 5))})


def documents(seed, n):
    rng = random.Random(seed)
    kinds = [(story, 30), (questions, 35), (echo, 15), (number_fact, 10), (card, 10)]
    for kind in rng.choices(*zip(*kinds), k=n):
        yield kind(rng)


if __name__ == "__main__":
    for text in documents(0, 12):
        print(text)
