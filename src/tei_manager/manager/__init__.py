"""Which instances exist and whether they are alive: the only room that starts processes."""
