#!/usr/bin/env python3
"""Hold the licence of every dependency against the lists in deny.toml; needs only cargo and Python 3.11."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def allows(expression, allowed):
    """Whether an SPDX expression can be met from `allowed`; `/` is the old spelling of OR."""
    tokens = re.findall(r"\(|\)|[^\s()]+(?: WITH [^\s()]+)?", expression.replace("/", " OR "))

    def term():
        token = tokens.pop(0)
        if token != "(":
            return token in allowed
        inside = either()
        tokens.pop(0)
        return inside

    def both():
        met = term()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            met &= term()
        return met

    def either():
        met = both()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            met |= both()
        return met

    return either()


def main():
    rules = tomllib.loads((ROOT / "deny.toml").read_text())["licenses"]
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    packages = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)["packages"]
    extra = {rule["crate"]: set(rule["allow"]) for rule in rules.get("exceptions", [])}
    refused = [
        f"{package['name']} {package['version']}: {package['license']}"
        for package in packages
        if not package["license"]
        or not allows(package["license"], set(rules["allow"]) | extra.get(package["name"], set()))
    ]
    for line in refused:
        print(f"licence not in deny.toml: {line}", file=sys.stderr)
    print(f"{len(packages)} packages, {len(refused)} refused", file=sys.stderr)
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
