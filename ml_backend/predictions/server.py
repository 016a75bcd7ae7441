"""The prediction server of one web process: serves the promoted version, loads the next beside it, then swaps."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from ml_backend import heap
from ml_backend.errors import RefitError, Unavailable
from ml_backend.predictions.answers import Answering, normalised
from ml_backend.predictions.presence import BEAT_S, LoadError, Presence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import redis

    from ml_backend.backend import TrainingBackend
    from ml_backend.examples import JsonObject
    from ml_backend.registry import Alias, Registry
    from ml_backend.settings import Strategy

log = logging.getLogger(__name__)

_POLL_S = 0.2
_POLL_AWAY_S = 1.0
_RETRY_S = 60.0
_NAMELESS = 10_000
_BACK = 3  # how many versions to try, from the one that must serve backwards, when nothing is loaded

__all__ = ["LoadError", "PredictionServer"]


@dataclass(frozen=True, slots=True, weakref_slot=True)
class _Loaded:
    number: int
    name: str
    model: TrainingBackend
    strategy: Strategy


@dataclass(frozen=True, slots=True)
class _Stopped:
    """Why a project is not looked at again until then, unless an alias moves."""

    target: str | None
    until: float


class PredictionServer:
    """Answers `/predict` from loaded versions; a request waits for a load only when nothing of the project is loaded.

    ``make_model(uid, label_config)`` makes an instance to load a version into, and says what ranks the project's
    predictions; ``models`` is how many loaded models stay in memory, the least recently used goes first. Any number of
    threads may call `predict`; `start` and `close` belong to one process, after a fork.
    """

    def __init__(
        self,
        registry: Registry,
        make_model: Callable[[str, str], tuple[TrainingBackend, Strategy]],
        redis: redis.Redis,
        prefix: str = "mlb:",
        *,
        models: int = 16,
        poll_s: float = _POLL_S,
        retry_s: float = _RETRY_S,
    ) -> None:
        self._registry = registry
        self._make_model = make_model
        self._redis = redis
        self._prefix = prefix
        self._models = max(1, models)
        self._poll_s = poll_s
        self._retry_s = retry_s
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()
        self._stopped: dict[str, _Stopped] = {}
        self._nameless: dict[str, float] = {}  # until when the store need not be asked for a version
        self._warm_with: dict[str, tuple[JsonObject, str]] = {}
        # Whoever has a project's lock, or waits for it, keeps it here: names that nobody knows leave nothing behind.
        self._loading: weakref.WeakValueDictionary[str, threading.Lock] = weakref.WeakValueDictionary()
        self._replaced: list[weakref.ref[_Loaded]] = []
        self._lock = threading.Lock()
        self._presence = Presence(redis, prefix)
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._revision: int | None = None
        self._moves = 0
        self._unsaid = False
        self._wanted: set[str] = set()

    # Life

    @property
    def process(self) -> str:
        """What this process is called among the others; another one after each `start`."""
        return self._presence.process

    def start(self) -> Self:
        """Begin to follow the aliases in a background thread. Never raises: Redis may come later."""
        self._presence = Presence(self._redis, self._prefix)
        self._closing = threading.Event()
        try:
            self._presence.beat()
        except Unavailable as error:
            log.warning("predictions start without Redis: %s", error)
        self._thread = threading.Thread(target=self._follow, args=(self._closing,), name="versions", daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop following, and say that this process serves nothing any more."""
        if self._thread is None:
            return
        self._closing.set()
        self._thread.join(timeout=10)
        self._thread = None
        with self._lock:
            uids = [*self._loaded, *(uid for uid in self._stopped if uid not in self._loaded)]
            self._loaded.clear()
        try:
            self._presence.leave(uids)
        except Unavailable:
            log.debug("Redis is away; this process counts as gone when its beats stop")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # What the web asks

    def predict(
        self,
        uid: str,
        tasks: Sequence[JsonObject],
        label_config: str = "",
        context: dict[str, Any] | None = None,
        deadline_s: float = 80.0,
    ) -> list[list[JsonObject]]:
        """One list of predictions for each task, in order: empty before the first version, for a task that the model
        cannot answer, and for what is not done after ``deadline_s`` seconds. Never raises for a model's faults.
        """
        deadline = time.monotonic() + deadline_s
        loaded = self._of(uid) or self._load_now(uid, deadline)
        if loaded is None:
            return [[] for _ in tasks]
        model = loaded.model.for_config(label_config)
        answering = Answering(lambda some: model.predict(some, context=context), loaded.name, deadline, loaded.strategy)
        answers = answering.answers(tasks)
        for task, answer in zip(tasks, answers, strict=True):
            if answer:
                self._warm_with[uid] = (task, label_config)
                break
        return answers

    def served(self, uid: str) -> str | None:
        """The version to name in `/setup`: the promoted one once every live web process serves it, until then the one
        before; None before the first. Without Redis, what this process serves.
        """
        try:
            return self.served_with(uid, ())[0]
        except Unavailable as error:
            log.warning("project %s: what all web processes serve is not known: %s", uid, error)
            return self.loaded(uid)

    def served_with(self, uid: str, fields: Sequence[str]) -> tuple[str | None, tuple[str | None, ...]]:
        """`served`, and ``fields`` of the project as the state keeps them, in one round trip. Raises `Unavailable`."""
        standing = self._presence.standing(uid, fields)
        if standing.target is not None or standing.served:
            self._prepare(uid)
            return standing.agreed(), standing.fields
        try:
            return self._named_by_store(uid), standing.fields
        except RefitError as error:
            log.warning("project %s: what the store has to serve is not known: %s", uid, error)
            return self.loaded(uid), standing.fields

    def _named_by_store(self, uid: str) -> str | None:
        """Redis knows of no version. It may have lost them all: the store is asked, but not each time."""
        now = time.monotonic()
        with self._lock:
            if self._nameless.get(uid, 0.0) > now:
                return None
        alias = self._registry.alias(uid)
        if alias is not None:
            return alias.name
        with self._lock:
            if len(self._nameless) >= _NAMELESS:
                self._nameless.clear()
            self._nameless[uid] = now + self._retry_s
        return None

    def loaded(self, uid: str) -> str | None:
        """The version that this process has loaded."""
        with self._lock:
            held = self._loaded.get(uid)
        return held.name if held else None

    def errors(self, uid: str) -> list[LoadError]:
        """Versions that a live web process could not load, and why. Raises `Unavailable`."""
        return self._presence.errors(uid)

    # Loading

    def _prepare(self, uid: str) -> None:
        """Have the background thread load a project that is about to be asked for, while nothing must go for it."""
        with self._lock:
            if uid not in self._loaded and len(self._loaded) < self._models:
                self._wanted.add(uid)

    def _of(self, uid: str) -> _Loaded | None:
        with self._lock:
            held = self._loaded.get(uid)
            if held is not None:
                self._loaded.move_to_end(uid)
        return held

    def _load_now(self, uid: str, deadline: float) -> _Loaded | None:
        with self._lock:
            stopped = self._stopped.get(uid)
        if stopped is not None and time.monotonic() < stopped.until and not self._is_new_here(stopped):
            return None
        turn = self._turn(uid)
        if not turn.acquire(timeout=max(0.0, deadline - time.monotonic())):
            return None
        try:
            return self._of(uid) or self._load_first(uid)
        finally:
            turn.release()

    def _is_new_here(self, stopped: _Stopped) -> bool:
        """Whether there was nothing to serve, and aliases moved since the background thread looked.

        `/setup` names a first version at once, and what Label Studio then gets empty it does not ask for again.
        """
        try:
            return stopped.target is None and self._registry.revision() != self._revision
        except Unavailable:
            return False

    def _load_first(self, uid: str) -> _Loaded | None:
        moves = self._moves
        try:
            alias = self._registry.alias(uid)
        except RefitError as error:
            log.warning("project %s: what to serve is not known: %s", uid, error)
            return None
        if alias is None:
            self._stop(uid, None, moves)
            return None
        # What must serve cannot always be loaded; the ones before it could.
        for number in [alias.number, *reversed(alias.before)][:_BACK]:
            held = self._loaded_version(uid, number)
            if held is None:
                self._stop(uid, alias.name, moves)
                continue
            self._swap(uid, held, healed=number == alias.number)
            return held
        return None

    def _loaded_version(self, uid: str, number: int) -> _Loaded | None:
        name = f"version {number}"
        began = time.monotonic()
        try:
            manifest = self._registry.get(uid, number).manifest
            name = manifest.name
            folder = self._registry.fetch(uid, number)
            made, strategy = self._make_model(uid, manifest.label_config or "")
            model = made.loaded(folder, name)
            self._warm(uid, model)
        except Exception as error:
            # The store's faults and whatever a model author's code raises: nothing of it may reach a request.
            log.exception("project %s: %s cannot be served; what served before goes on", uid, name)
            self._note(uid, name, f"{type(error).__name__}: {error}")
            return None
        log.info("project %s: %s loaded in %.2f s", uid, name, time.monotonic() - began)
        return _Loaded(number, name, model, strategy)

    def _warm(self, uid: str, model: TrainingBackend) -> None:
        known = self._warm_with.get(uid)
        if known is not None:
            task, label_config = known
            normalised(model.for_config(label_config).predict([task]), 1, "warm-up")

    def _swap(self, uid: str, held: _Loaded, *, healed: bool) -> None:
        evicted: list[str] = []
        gone: list[_Loaded] = []
        with self._lock:
            if uid in self._loaded:
                gone.append(self._loaded[uid])
            self._loaded[uid] = held
            if healed:
                self._stopped.pop(uid, None)
            while len(self._loaded) > self._models:
                least = next(iter(self._loaded))
                evicted.append(least)
                gone.append(self._loaded.pop(least))
            self._replaced += map(weakref.ref, gone)
            for one in evicted:
                self._warm_with.pop(one, None)
                self._stopped.pop(one, None)
        gone.clear()  # outside the lock, and before the heap is tidied
        try:
            self._presence.serves(uid, held.name)
            if healed:
                self._presence.healed(uid)
            if evicted:
                self._presence.dropped(evicted)
        except Unavailable as error:
            # Said again with the first beat that arrives.
            log.warning("the others do not know yet that this process serves %s: %s", held.name, error)
            self._unsaid = True
        heap.give_back()  # of loading, and of the version before

    def _stop(self, uid: str, target: str | None, moves: int | None = None) -> None:
        with self._lock:
            # A move that came after the alias was read would be missed for as long as this stands.
            if moves is None or moves == self._moves:
                if len(self._stopped) >= _NAMELESS:
                    # Names that nobody here knows may be asked for without end.
                    self._stopped = {uid: one for uid, one in self._stopped.items() if uid in self._loaded}
                self._stopped[uid] = _Stopped(target, time.monotonic() + self._retry_s)

    def _note(self, uid: str, name: str, error: str) -> None:
        try:
            self._presence.failed(uid, name, error, time.time())
        except Unavailable:
            log.debug("Redis is away; the error stands in the log alone")

    def _turn(self, uid: str) -> threading.Lock:
        with self._lock:
            return self._loading.setdefault(uid, threading.Lock())

    # Following the aliases

    def _follow(self, closing: threading.Event) -> None:
        beat_at = 0.0
        away = False
        while not closing.wait(_POLL_AWAY_S if away else self._poll_s):
            try:
                if time.monotonic() >= beat_at:
                    self._tidy()
                    self._beat(again=away or self._unsaid)
                    beat_at = time.monotonic() + BEAT_S
                self._look(closing)
                away = False
            except RefitError as error:
                if not away:
                    log.warning("following the versions is interrupted, what is loaded serves on: %s", error)
                away = True
            except Exception:
                # This thread is the only one that brings new versions: it must outlive every surprise.
                log.exception("following the versions failed; it goes on")
                away = True

    def _beat(self, *, again: bool) -> None:
        if self._presence.beat() or again:
            with self._lock:
                self._unsaid = False
                serving = {uid: held.name for uid, held in self._loaded.items()}
            for uid, name in serving.items():
                self._presence.serves(uid, name)

    def _tidy(self) -> None:
        """Free what was replaced, once no request uses it any more.

        Python frees by itself what nothing refers to. Models often refer to themselves (a pipeline to its parts, those
        to the pipeline), and reading one leaves such circles too: a web process looks for these so rarely (see
        `web.server`) that model upon model would stay.
        """
        with self._lock:
            used = [one for one in self._replaced if one() is not None]
            unused = len(self._replaced) - len(used)
            self._replaced = used
        if unused:
            gc.collect()

    def _look(self, closing: threading.Event) -> None:
        revision = self._registry.revision()
        moved = revision != self._revision
        now = time.monotonic()
        with self._lock:
            due = {uid for uid, stopped in self._stopped.items() if stopped.until <= now}
            if moved:
                # Which project moved is not known: those with nothing loaded are looked up when they are asked for.
                self._moves += 1
                self._nameless.clear()
                self._stopped = {uid: one for uid, one in self._stopped.items() if uid in self._loaded}
            uids = [uid for uid in self._loaded if moved or uid in due]
        for uid in uids:
            if closing.is_set():
                return
            self._follow_one(uid)
        self._revision = revision
        with self._lock:
            wanted, self._wanted = self._wanted, set()
        for uid in wanted:
            if not closing.is_set() and self._of(uid) is None:
                self._load_now(uid, time.monotonic() + self._retry_s)

    def _follow_one(self, uid: str) -> None:
        alias = self._registry.alias(uid)
        with self._lock:
            held = self._loaded.get(uid)
            stopped = self._stopped.get(uid)
        if alias is None or held is None:
            return
        if held.number == alias.number:
            self._settled(uid, stopped)
        elif stopped is None or stopped.target != alias.name or time.monotonic() >= stopped.until:
            with self._turn(uid):
                self._load_next(uid, alias)

    def _load_next(self, uid: str, alias: Alias) -> None:
        fresh = self._loaded_version(uid, alias.number)
        if fresh is None:
            self._stop(uid, alias.name)
        else:
            self._swap(uid, fresh, healed=True)

    def _settled(self, uid: str, stopped: _Stopped | None) -> None:
        """What must serve does: an earlier failure (of a version that was rolled back since) is over."""
        if stopped is not None:
            with self._lock:
                self._stopped.pop(uid, None)
            self._presence.healed(uid)
