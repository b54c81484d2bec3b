"""The contracts: messages, methods and statuses of the services that we speak."""
