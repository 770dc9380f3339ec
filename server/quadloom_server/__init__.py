"""Planner, aggregation, rounds and the HTTP API that a fleet of devices talks to."""
