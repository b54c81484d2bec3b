"""Package ``tei_multiplexer.v1``: one service in front of many TEI servers."""
