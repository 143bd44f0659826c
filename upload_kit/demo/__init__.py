"""The demonstration: one file, three layers, one kill -9, and the proof."""

from __future__ import annotations

from upload_kit.demo.process import DemoFailed
from upload_kit.demo.stage import DemoOptions, run_demo

__all__ = ["DemoFailed", "DemoOptions", "run_demo"]
