"""The contracts between Kapstan's parts; the adapters below implement them, the layers above call nothing else.

``Store`` and ``RunLog`` (object store), ``Queue`` and ``FlowRuns`` (Redis) are synchronous and safe to call from
several threads; ``Cluster`` and ``Launcher`` are async. One file each; the docstrings are the contract:
``tests/contract`` runs one suite per port over every adapter of it. Values are bytes and plain records: nothing here
knows how a value was serialised or signed.
"""

from __future__ import annotations

from kapstan.ports.background_runs import BackgroundFilter, BackgroundPage, BackgroundRuns, Change, ListedRun
from kapstan.ports.cluster import Cluster, Key, Kind, Manifest
from kapstan.ports.flow_runs import CANCEL_SIGNAL, FlowRuns, IndexedRun, LeaseHolder, RunLease
from kapstan.ports.lane import Claim, Lane, Outcome, Stepped, StoredClaim, Want
from kapstan.ports.launcher import (
    AttemptObservation,
    JobRequest,
    Launcher,
    WorkerMember,
    WorkerObservation,
    WorkersRequest,
)
from kapstan.ports.locks import LockHolder, LockManager, LockTable, Place, Wait
from kapstan.ports.objects import Download, Objects, Stored, Upload
from kapstan.ports.queue import Depth, Queue, RunRecord, RunState, Served, SessionInfo, Submission, Submitted
from kapstan.ports.register import (
    Entry,
    Holder,
    Proof,
    Register,
    RegisterEvent,
    RegisterKey,
    RegisterRecord,
    RegisterState,
)
from kapstan.ports.run_log import RunLog
from kapstan.ports.run_records import AttemptEnd, AttemptRecord, Doubt, RunRecords
from kapstan.ports.session import Renewed, Session
from kapstan.ports.store import ConditionalUpload, EraRegister, Listed, ListedLog, Store

__all__ = [
    "CANCEL_SIGNAL",
    "AttemptEnd",
    "AttemptObservation",
    "AttemptRecord",
    "BackgroundFilter",
    "BackgroundPage",
    "BackgroundRuns",
    "Change",
    "Claim",
    "Cluster",
    "ConditionalUpload",
    "Depth",
    "Doubt",
    "Download",
    "Entry",
    "EraRegister",
    "FlowRuns",
    "Holder",
    "IndexedRun",
    "JobRequest",
    "Key",
    "Kind",
    "Lane",
    "Launcher",
    "LeaseHolder",
    "Listed",
    "ListedLog",
    "ListedRun",
    "LockHolder",
    "LockManager",
    "LockTable",
    "Manifest",
    "Objects",
    "Outcome",
    "Place",
    "Proof",
    "Queue",
    "Register",
    "RegisterEvent",
    "RegisterKey",
    "RegisterRecord",
    "RegisterState",
    "Renewed",
    "RunLease",
    "RunLog",
    "RunRecord",
    "RunRecords",
    "RunState",
    "Served",
    "Session",
    "SessionInfo",
    "Stepped",
    "Store",
    "Stored",
    "StoredClaim",
    "Submission",
    "Submitted",
    "Upload",
    "Wait",
    "Want",
    "WorkerMember",
    "WorkerObservation",
    "WorkersRequest",
]
