"""Half-done uploads and finished ones, remembered across processes."""
