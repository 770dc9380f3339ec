"""Subcommands of `quadloom` that a device can run."""
