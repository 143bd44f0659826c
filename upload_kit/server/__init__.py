"""The upload server."""

from __future__ import annotations

from upload_kit.server.app import RunningServer, create_app, running_server
from upload_kit.server.config import (
    Durability,
    Forwarding,
    ForwardName,
    ServerConfig,
)
from upload_kit.server.process import serve

__all__ = [
    "Durability",
    "ForwardName",
    "Forwarding",
    "RunningServer",
    "ServerConfig",
    "create_app",
    "running_server",
    "serve",
]
