"""One upload, step by step; what is in here knows ports only, and no adapter."""
