"""What calls through the multiplexer take beyond calls to the instance, and reports of it."""
