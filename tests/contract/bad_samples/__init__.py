"""The one table of wrong input: what the API server refuses is refused by the models, in the same words.

`test_bad_samples` runs it against the models and against an API server; the e2e suite runs it on the cluster. A row
holds a manifest, the stored one if it is an update, the field to blame and the message. ``ours`` marks a rule that
Kapstan declares (`kapstan.resources.base.Rule`); the other rows show that ranges, enums and types of the schema say
the same on both sides.
"""

from __future__ import annotations

from tests.contract.bad_samples.good import GOOD, GOOD_STATUS
from tests.contract.bad_samples.row import BadSample
from tests.contract.bad_samples.rules import OURS
from tests.contract.bad_samples.schema import SCHEMA
from tests.contract.bad_samples.updates import UPDATES

BAD_SAMPLES: tuple[BadSample, ...] = (*OURS, *UPDATES, *SCHEMA)

__all__ = ["BAD_SAMPLES", "GOOD", "GOOD_STATUS", "BadSample"]
