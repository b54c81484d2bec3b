"""The services of one TEI server and of the multiplexer, as messages and stubs for Python."""
