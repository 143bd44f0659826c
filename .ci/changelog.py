#!/usr/bin/env python3
"""
Move the fragments of changelog.d/ into CHANGELOG.md, as the section of a release.

    .ci/changelog.py 0.2.0 2026-11-30

A fragment is `<topic>.<kind>.md`; its text is one or two sentences for users. Without
arguments the section is only printed, under the name "Unreleased".
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
MARK: Final = "<!-- releases -->"

# In the order in which they stand in a section: what may hurt comes first.
KINDS: Final = {
    "breaking": "Breaking",
    "added": "Added",
    "changed": "Changed",
    "fixed": "Fixed",
}


def section(fragments: list[Path], title: str) -> str:
    """Write a release's section from its fragments."""
    lines = [f"## {title}"]
    for kind, heading in KINDS.items():
        mine = sorted(f for f in fragments if kind_of(f) == kind)
        if mine:
            lines += ["", f"### {heading}", ""]
            lines += [f"- {' '.join(f.read_text().split())}" for f in mine]
    return "\n".join(lines) + "\n"


def kind_of(fragment: Path) -> str:
    """Return the kind that a fragment's name says."""
    parts = fragment.name.split(".")
    if len(parts) != 3 or parts[1] not in KINDS:
        raise SystemExit(
            f"{fragment}: name it <topic>.<kind>.md, the kind one of {', '.join(KINDS)}"
        )
    return parts[1]


def main(arguments: list[str]) -> None:
    """Print the section, or write it and remove its fragments."""
    fragments = sorted((ROOT / "changelog.d").glob("*.md"))
    if not arguments:
        sys.stdout.write(section(fragments, "Unreleased"))
        return
    if len(arguments) != 2:
        raise SystemExit("usage: changelog.py [VERSION DATE]")
    version, date = arguments
    changelog = ROOT / "CHANGELOG.md"
    before, mark, after = changelog.read_text().partition(MARK)
    if not mark or not fragments:
        raise SystemExit(f"Nothing to release: no fragment, or no {MARK} in CHANGELOG")
    released = section(fragments, f"{version} - {date}")
    changelog.write_text(f"{before}{mark}\n\n{released}{after}")
    for fragment in fragments:
        fragment.unlink()


if __name__ == "__main__":
    main(sys.argv[1:])
