"""The command line: commands and what they print, no logic."""

from __future__ import annotations

from upload_kit.cli.main import main

__all__ = ["main"]
