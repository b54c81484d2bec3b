"""The control API on port 9000: HTTP in, the manager's answers out; no decision of its own."""
