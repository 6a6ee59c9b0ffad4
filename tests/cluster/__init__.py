"""A real Kubernetes for the tests, brought up and taken down by the tests themselves.

``python -m tests.cluster up|down|status`` is for people and ``make``; the fixture ``cluster`` in ``fixtures`` is for
the end-to-end tier. Nothing in here knows the product: it offers an API server, nodes that run pods, and images.
"""
