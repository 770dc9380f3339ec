"""How a family's graphs become files: one module per format."""
