"""The side of worker.mjs in Python: a line of JSON for each line that is read."""

import json
import sys


def say(value):
    print(json.dumps(value), flush=True)


def serve(facts, answer):
    """Says the facts, then answers commands until there are no more."""
    say(facts)
    for line in sys.stdin:
        try:
            say(answer(json.loads(line)))
        except Exception as error:
            say({"error": f"{type(error).__name__}: {error}"})
