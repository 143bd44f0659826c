"""`python -m upload_kit.cli`: the command line."""

from __future__ import annotations

from upload_kit.cli import main

if __name__ == "__main__":
    main()
