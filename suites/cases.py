"""From what a test program printed to its cases.

Each reader takes the whole output and returns name -> "pass", "fail" or "skip". Programs print a
line when a case ends, so a program that was ended in the middle still yields those before.
A name that occurs twice passes only if it passes each time.
"""

import re


def tap(text):
    """`ok NAME` and `not ok NAME # why`: our own scripts, and mocha, which numbers them."""
    found = re.findall(r"^(not )?ok (?:\d+ )?(.+?)(?: (# SKIP.*)| #.*)?$", text, re.MULTILINE)
    return collect(
        (name, "fail" if wrong else "skip" if skipped else "pass") for wrong, name, skipped in found
    )


def pytest(text):
    """`FILE::NAME PASSED [ 10%]`, as with -v."""
    outcomes = {"PASSED": "pass", "SKIPPED": "skip", "FAILED": "fail", "ERROR": "fail"}
    found = re.findall(r"^(\S+?::.+?) (PASSED|SKIPPED|FAILED|ERROR)\b.*%\]$", text, re.MULTILINE)
    return collect((name.split("/")[-1], outcomes[word]) for name, word in found)


def go(text):
    """`--- PASS: NAME (0.00s)`, indented for a part of another test, as with -v."""
    outcomes = {"PASS": "pass", "SKIP": "skip", "FAIL": "fail"}
    found = re.findall(r"^ *--- (PASS|SKIP|FAIL): (.+) \(.*\)$", text, re.MULTILINE)
    return collect((name, outcomes[word]) for word, name in found)


def memccapable(text):
    """`ascii NAME  [pass]`. What it says of a failure goes to standard error, so a name that is not
    followed by [pass] has failed."""
    found = re.findall(r"\b(ascii|binary) (.+?) {3,}(\[pass\])?", text)
    return collect((f"{kind} {name}", "pass" if passed else "fail") for kind, name, passed in found)


def collect(pairs):
    cases = {}
    for name, outcome in pairs:
        if cases.get(name) != "fail":
            cases[name] = outcome
    return cases
