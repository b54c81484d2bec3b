"""Package ``tei.v1``: the services of one TEI server."""
