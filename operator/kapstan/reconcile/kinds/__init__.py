"""One folder per kind: what is seen of it, what is decided, what that wakes, and the actions that only it knows.

In each folder `observed` is the frozen record that a decision is made on, `observe` gathers it, the decision is pure
(`reconcile(observed, now) -> Plan`), `actions` are carried out by the loop, and the folder's own module is the
`Reconciler` that stands in `kapstan.reconcile.table`.
"""

from __future__ import annotations
