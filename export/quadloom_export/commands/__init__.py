"""Subcommands of `quadloom` that export."""
