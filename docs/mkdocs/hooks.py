"""What mkdocs does on its way: every page of docs/dev is in the navigation."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:
    """Put the decisions where the navigation says `dev/`, each by its title."""
    folder = Path(config["docs_dir"], "dev")
    pages = [{_title(page): f"dev/{page.name}"} for page in sorted(folder.glob("*.md"))]
    for section in config["nav"]:
        for entries in section.values():
            if not isinstance(entries, list):
                continue
            for entry in entries:
                for name, target in entry.items():
                    if target == "dev/":
                        entry[name] = pages
    return config


def _title(page: Path) -> str:
    """Return the first heading, without what is code in it."""
    lines = page.read_text(encoding="utf-8").splitlines()
    heading = next(line for line in lines if line.startswith("# "))
    return heading.removeprefix("# ").replace("`", "")
