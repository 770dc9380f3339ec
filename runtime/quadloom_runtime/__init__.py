"""The part of Quadloom that runs on a device: contract, engines, optimizer, trainer, device loop and emulation.

It imports neither torch nor transformers nor any of the server's packages.
"""

__version__ = "0.1.0"
