"""From what happens in an upload to what readers see of it."""
