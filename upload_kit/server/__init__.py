"""The upload server."""
