"""The data plane: clients on one side, instances on the other, calls in between."""
