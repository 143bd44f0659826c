"""Campaigns: thousands of uploads through whatever can go wrong, each one checked."""
