"""A small Python client of the multiplexer, for scripts; anything else takes the stubs."""

from tei_manager.client.client import Client

__all__ = ["Client"]
