"""Takes what is too old out of a store: whole flow runs that have ended, and values that nobody can reach any more.

One pass over the store in the order of run ids, page by page: what is remembered does not grow with what is stored.
Values are never read. Of a run the grave comes first, and only then what the run had is deleted; so a sweep that dies
at any point leaves a run that can be read whole, or one that is gone for everybody and that the next sweep finishes.
Several sweeps at once, and a resume at the same time, are safe: the grave is a conditional write.
"""

from __future__ import annotations

import copy
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from enum import Enum

from kapstan.backend import Backend
from kapstan.errors import ConfigurationError, SerializationError, StoreRefused, StoreUnavailable, StoreUnsafe
from kapstan.ids import RunId
from kapstan.journal import Changed, bury, log_name, read_journal
from kapstan.ports import Listed, ListedLog, Store
from kapstan.runs import marked, old_submissions
from kapstan.runs.holdings import Holdings, holdings
from kapstan.runs.marked import MarkedStore
from kapstan.runs.old_keys import keys_of, look_at
from kapstan.runs.retention import Ages, Held, Kept, Place, caller_of, is_old, why_kept
from kapstan.runs.swept import Item as Item
from kapstan.runs.swept import Report as Report
from kapstan.store.marks import Marked

_BATCH = 500  # values whose runs are looked up, and deleted, together
_REMEMBERED = 256  # runs that called others, of which is remembered whether they go
_DEEPEST = 100


class _Run(Enum):
    """What becomes of a flow run."""

    NONE = "there is no journal"
    STAYS = "stays"
    GOES = "goes, or has gone"


class Sweep:
    """One sweep of one namespace.

    Args:
        held: what custom resources need; None: nobody knows which exist, so what a deployment made stays.
        dry_run: change nothing.
        on_item: called with each thing that went, or would go.
        stop: asked again and again; True: end here, which is safe at any point.
        now: Unix seconds, for tests; None: the store's clock.
    """

    def __init__(
        self,
        backend: Backend,
        ages: Ages,
        held: Held | None,
        *,
        dry_run: bool = False,
        on_item: Callable[[Item], object] = lambda _: None,
        stop: Callable[[], bool] = lambda: False,
        now: float | None = None,
    ) -> None:
        self._backend = backend
        self._store = backend.store
        self._values_in: Store | MarkedStore = backend.store
        self._index = backend.flow_runs
        self._ages = ages
        self._held = held
        self._dry_run = dry_run
        self._on_item = on_item
        self._stop = stop
        self._own_time = now is None
        self._now = self._store.now() if now is None else now
        self._where = ""
        self._callers: OrderedDict[RunId, bool] = OrderedDict()
        self._at: RunId = ""
        self._stored = old_submissions.Submitted(self._store)
        self._before_its_turn: set[RunId] = set()  # went for the sake of what it called, and is still to come
        self.report = Report()

    def run(self) -> Report:
        """Do it.

        Raises:
            StoreUnavailable, StoreRefused, QueueUnavailable: what cannot be asked is not deleted; what went has gone,
                and stands in ``report``.
        """
        for found in holdings(self._store, lambda key: self.report.keep(Kept.FOREIGN, key)):
            if self._stop():
                self.report.stopped = True
                return self.report
            self._look_at(found)
        for step in (self._registers, self._parameters, self._stored_runs):
            if not self.report.stopped:
                step()
        for storage in () if self.report.stopped else self._backend.marks.all():
            self._named_storage(storage)
        return self.report

    # ------------------------------------------------------------------ a flow run

    def _look_at(self, found: Holdings) -> None:
        log, self._at = found.log, found.run_id
        values = iter(found.values)
        if log is not None and log.bare and not self._is_due(log):
            first = next(values, None)
            if first is None and found.definition is None:
                return  # a grave as most are: it is not read
            values = values if first is None else itertools.chain((first,), values)
        if log is None:
            fate = _Run.NONE
        elif found.run_id in self._before_its_turn:
            self._before_its_turn.discard(found.run_id)
            fate = _Run.GOES
        elif log.bare:
            fate = _Run.GOES if self._is_buried(found.run_id) else _Run.STAYS
        elif self._now - log.before < self._ages.runs:
            return  # young: nothing of it is looked at
        else:
            fate = self._judge(found.run_id, log)
        if fate is _Run.STAYS:
            return
        if found.definition is not None and self._may_go(fate, found.run_id, found.definition):
            self._delete("definition", [found.definition], name=found.run_id)
        self._values(fate, values)
        if log is not None and log.bare:
            self._grave(found.run_id, log)

    def _judge(self, run_id: RunId, log: ListedLog, depth: int = 0) -> _Run:
        """Let a run with an old journal go, if it may; ``depth``: whether it is the turn of a run that it called."""
        try:
            history = read_journal(self._store, self._backend.codec, run_id)
            if history.buried:  # a sweep died, or another one is at it
                return self._finish(run_id, log, log.objects - 1)
            if self._now - log.modified < self._ages.runs:
                return _Run.STAYS
            summary = self._index.load(run_id)
            (holder,) = self._index.holders([run_id])
            why = why_kept(history, run_id, summary, holder, self._held)
            if why is None and (caller := caller_of(history, summary)) and not self._is_over(caller, depth):
                why = Kept.CALLED
            if why is None and not self._dry_run:
                bury(self._store, self._backend.codec, run_id, history, self._now)
        except (StoreUnsafe, SerializationError):
            why = Kept.UNREADABLE
        except Changed:
            why = Kept.CHANGED
        if why is None:
            return self._finish(run_id, log, log.objects)
        if not depth:
            self.report.keep(why, run_id)
        return _Run.STAYS

    def _finish(self, run_id: RunId, log: ListedLog, objects: int) -> _Run:
        """Delete what a buried run had. The segments last: they tell the next sweep that there is more to do."""
        if run_id < self._at:
            return _Run.GOES  # it had its turn
        if run_id > self._at:
            self._before_its_turn.add(run_id)
        if not self._dry_run:
            self._index.delete(run_id)
            self._refused(self._store.log(log.name).clear())
        self._went(Item("journal", run_id, objects, log.size))
        return _Run.GOES

    def _is_over(self, caller: RunId, depth: int) -> bool:
        """Whether nobody can come back to the run that called another one, so that this may go."""
        if caller not in self._callers:
            self._callers[caller] = self._ask_over(caller, depth)
            if len(self._callers) > _REMEMBERED:
                self._callers.popitem(last=False)
        return self._callers[caller]

    def _ask_over(self, caller: RunId, depth: int) -> bool:
        if depth > _DEEPEST or self._in_queue([caller]):
            return False
        log = next(self._store.logs(log_name(caller)), None)
        if log is None:
            return True
        if log.bare:
            return self._is_buried(caller)
        if self._now - log.before < self._ages.runs:
            return False
        return self._judge(caller, log, depth + 1) is _Run.GOES

    def _is_buried(self, run_id: RunId) -> bool:
        try:
            return read_journal(self._store, self._backend.codec, run_id).buried
        except (StoreUnsafe, SerializationError):
            self.report.keep(Kept.UNREADABLE, run_id)
            return False

    def _is_due(self, grave: ListedLog) -> bool:
        return self._ages.keys is not None and self._now - grave.modified >= self._ages.keys

    def _grave(self, run_id: RunId, log: ListedLog) -> None:
        if not self._is_due(log):
            return
        if not self._dry_run:
            try:
                self._store.log(log.name).remove()
            except StoreRefused as error:
                self._refused({log.name: str(error)})
                return
        self._went(Item("grave", run_id, 1, log.size))

    # ------------------------------------------------------------------ values and parameters

    def _values(self, fate: _Run, values: Iterable[Listed]) -> None:
        candidates = (value for value in values if self._may_go(fate, Place.of(value.key), value))
        while batch := list(itertools.islice(candidates, _BATCH)):
            places = [Place.of(value.key) for value in batch]
            run_ids = {run_id for place in places if place for run_id in (place.owner, place.run_id)}
            known = self._in_queue(sorted(run_ids)) | self._stored.among(run_ids)
            going: list[Listed] = []
            for value, place in zip(batch, places, strict=True):
                if place is not None and {place.owner, place.run_id} & known:
                    self.report.keep(Kept.QUEUED, self._where + value.key)
                else:
                    going.append(value)
            self._delete("value", going)

    def _may_go(self, fate: _Run, place: Place | RunId | None, entry: Listed) -> bool:
        """Whether something of a run that went, or that has no journal, may go as far as its age and its key tell."""
        if fate is _Run.GOES:
            return True
        if not is_old(entry, self._ages.orphans, self._now):
            return False
        if isinstance(place, Place) and not place.tells_owner:
            self.report.keep(Kept.UNKNOWN, self._where + entry.key)
            return False
        owner = place.owner if isinstance(place, Place) else place
        if self._held is not None and owner in self._held.runs:
            self.report.keep(Kept.HELD, self._where + entry.key)
            return False
        return True

    def _in_queue(self, run_ids: Sequence[RunId]) -> set[RunId]:
        """Those that the queue knows."""
        settings = self._backend.settings
        if not settings.redis_url and not (settings.home_path / "redis").is_dir():
            return set()  # nothing was ever submitted here; asking would start a server
        asked = list(dict.fromkeys(run_ids))
        return {run_id for run_id, record in zip(asked, self._backend.queue.records(asked), strict=True) if record}

    def _stored_runs(self) -> None:
        for name, found in old_submissions.looked_at(self._backend, self._ages, self._now, self._in_queue):
            if self._stop():
                self.report.stopped = True
                return
            if isinstance(found, Kept):
                self.report.keep(found, name)
            else:
                self._delete(found.key.partition("/")[0], [found], name=name)

    def _registers(self) -> None:
        for key in keys_of(self._store):
            if self._stop():
                self.report.stopped = True
                return
            found = look_at(self._backend, key, self._ages, self._now, dry_run=self._dry_run)
            if isinstance(found, Kept):
                self.report.keep(found, key.name)
            elif found is not None:
                if found.buried is not None:
                    self._went(Item("key", key.name, 1, found.buried.size))
                self._delete("value", found.values)

    def _parameters(self) -> None:
        for entry in self._store.listed("parameters/"):
            if not is_old(entry, self._ages.orphans, self._now):
                continue
            if self._held is None:
                self.report.keep(Kept.PARAMETERS, entry.key)
            elif entry.key in self._held.parameters:
                self.report.keep(Kept.HELD, entry.key)
            elif all(is_old(again, self._ages.orphans, self._now) for again in self._store.listed(entry.key)):
                self._delete("parameters", [entry])  # looked at again: somebody may have stored the same just now

    # ------------------------------------------------------------------ result storages that were named

    def _named_storage(self, named: Marked) -> None:
        """As the values of the store itself, when the runs and registers whose turn it was have gone."""
        if not named.mark:
            self.report.keep(Kept.UNREADABLE, named.address)
            return
        try:
            store = marked.opened(self._backend, named)
            if store is None:
                self.report.keep(Kept.ELSEWHERE, named.address)
                return
            there = copy.copy(self)
            there._values_in, there._where, there._at = store, f"{named.address}/", "~"
            there._now = store.now() if self._own_time else self._now
            there._values_there(store, named.address)
        except (ConfigurationError, StoreUnavailable, StoreRefused) as error:
            self._refused({named.address: str(error)})

    def _values_there(self, store: MarkedStore, address: str) -> None:
        for found in holdings(store, lambda key: self.report.keep(Kept.FOREIGN, self._where + key)):
            if self._stop():
                self.report.stopped = True
                return
            if (fate := self._fate(found.run_id)) is not _Run.STAYS:
                self._values(fate, found.values)
        for key in keys_of(store):
            if self._stop():
                self.report.stopped = True
                return
            register = next(self._store.listed(f"registers/{key.name}"), None) if self._dry_run else None
            seen = key._replace(register=register)  # else it was buried before, if its time was over
            went = look_at(self._backend, seen, self._ages, self._now, dry_run=self._dry_run, storage=address)
            if isinstance(went, Kept):
                self.report.keep(went, self._where + key.name)
            elif went is not None:
                self._delete("value", went.values)

    def _fate(self, run_id: RunId) -> _Run:
        """What became of a flow run in this sweep, or before."""
        log = next(self._store.logs(log_name(run_id)), None)
        if log is None:
            return _Run.NONE
        if log.bare:
            return _Run.GOES if self._is_buried(run_id) else _Run.STAYS
        goes = self._dry_run and self._now - log.before >= self._ages.runs
        return self._judge(run_id, log, depth=1) if goes else _Run.STAYS

    # ------------------------------------------------------------------ what went

    def _delete(self, kind: str, entries: Sequence[Listed], name: str = "") -> None:
        refused: dict[str, str] = {}
        if entries and not self._dry_run:
            refused = self._values_in.delete_each([entry.key for entry in entries])
            self._refused({self._where + key: reason for key, reason in refused.items()})
        for entry in entries:
            if entry.key not in refused:
                self._went(Item(kind, name or self._where + entry.key, 1, entry.size))

    def _refused(self, refused: dict[str, str]) -> None:
        self.report.refusals += len(refused)
        self.report.refused |= dict(itertools.islice(refused.items(), 100 - min(100, len(self.report.refused))))

    def _went(self, item: Item) -> None:
        self.report.items[item.kind] += 1
        self.report.objects[item.kind] += item.objects
        self.report.sizes[item.kind] += item.size
        self._on_item(item)
