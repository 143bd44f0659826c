"""The three layers: chunked, parallel, resumable; each extends the one before."""
