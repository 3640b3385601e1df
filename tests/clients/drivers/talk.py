"""How a program talks with the test that started it: a line of JSON out, a line of JSON in. What it is told first is in the command line."""

from __future__ import annotations

import json
import sys

told = json.loads(sys.argv[1])
"""`base`, `client_id`, and what else the program needs."""


def ask(what, **more):
    """Say something and wait for the answer: `open` an address as a person (gives the address where the browser ended), `expire` the tokens."""
    print(json.dumps({"ask": what, **more}), flush=True)
    return json.loads(sys.stdin.readline())


def tell(**found):
    """What the library handed out."""
    print(json.dumps(found), flush=True)


def refused(act):
    """The library's own error, as its class and its words; "" when there was none."""
    try:
        act()
    except Exception as error:  # noqa: BLE001 (which one is the question)
        return f"{type(error).__name__}: {error}"
    return ""
