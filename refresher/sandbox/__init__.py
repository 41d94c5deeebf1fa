"""Local stand-ins for the peers: the demo and the tests use the same ones."""
