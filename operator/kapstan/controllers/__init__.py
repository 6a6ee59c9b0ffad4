"""The operator's process in a cluster: informers (kopf), election, health, and the table of rights it needs.

Decisions are made in `reconcile`, requests in `cluster.kubernetes`; only this package knows kopf.
"""
