"""Filters: which clips are left out, and why."""
