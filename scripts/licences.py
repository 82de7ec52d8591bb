"""Prints the licences of all crates that are compiled into a package for a target: licences.py MANIFEST TARGET

It reads them from the sources that cargo has fetched. `cargo about` does the same, and compares every text with every known
licence, which takes minutes; `cargo deny` has held the crates to the licences that are allowed.
"""

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LICENCE = re.compile(r"(un)?licen[cs]e|copying|copyright|notice", re.IGNORECASE)


def main() -> None:
    manifest, target = sys.argv[1:]
    crates = sorted(compiled_in(metadata(manifest, target)), key=lambda crate: (crate["name"], crate["version"]))
    users = defaultdict(list)
    for crate in crates:
        for text in texts(crate):
            users[text].append(crate)
    print("What is compiled into this program, and under which licences.\n")
    for crate in crates:
        print(f"{crate['name']} {crate['version']}: {crate['license'] or 'see the text below'}")
    for text, crates in users.items():
        print("\n" + "=" * 80)
        print(", ".join(f"{crate['name']} {crate['version']}" for crate in crates) + "\n\n" + text)


def metadata(manifest: str, target: str) -> dict:
    command = ["cargo", "metadata", "--locked", "--format-version=1", "--manifest-path", manifest, "--filter-platform", target]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def compiled_in(metadata: dict) -> list[dict]:
    """The crates of others that the package depends on, but for those that only its build or its tests need."""
    crates = {crate["id"]: crate for crate in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    reached, waiting = set(), [metadata["resolve"]["root"]]
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            dependencies = nodes[node]["deps"]
            waiting += [each["pkg"] for each in dependencies if any(kind["kind"] is None for kind in each["dep_kinds"])]
    return [crates[node] for node in reached if crates[node]["source"]]


def texts(crate: dict) -> list[str]:
    """The texts in the crate's folder; of a crate without one, whose it is and the terms, which are those of this project."""
    folder = Path(crate["manifest_path"]).parent
    files = sorted(path for path in folder.iterdir() if LICENCE.match(path.name) and path.is_file())
    if files:
        return [path.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n").strip() for path in files]
    if "MIT" not in re.split(r" OR |/", crate["license"] or ""):
        sys.exit(f"{crate['name']} {crate['version']} ({crate['license']}): its package has no text of a licence")
    terms = (ROOT / "LICENSE-MIT").read_text().split("\n\n", 1)[1].strip()
    return [f"MIT License\n\nCopyright {', '.join(crate['authors']) or crate['repository']}\n\n{terms}"]


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")
    main()
