"""Adapters of the ports ``Cluster`` and ``Launcher``: ``kubernetes`` for an API server, ``local`` for this machine."""
