"""The same file with software that was not written here: peers beside upload_kit."""
