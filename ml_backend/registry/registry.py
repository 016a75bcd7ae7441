"""The registry: publish a version whole or not at all, say which one serves, go back, hand out verified folders."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from ml_backend.errors import (
    LeaseLost,
    PromotionRefused,
    RegistryError,
    StoreUnavailable,
    Unavailable,
    VersionCorrupt,
    VersionNotFound,
)
from ml_backend.registry.aliases import Alias, Aliases
from ml_backend.registry.manifest import (
    MANIFEST,
    Manifest,
    Version,
    check_uid,
    decode,
    encode,
    version_name,
    version_number,
)
from ml_backend.registry.storage import FolderStorage
from ml_backend.registry.verify import Verifier, files_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from ml_backend.registry.manifest import FileEntry, Status
    from ml_backend.registry.storage import Storage

log = logging.getLogger(__name__)

_MIRROR = "serving.json"
_TRIES = 20


@dataclass(frozen=True, slots=True)
class _Mirror:
    alias: Alias

    def encoded(self) -> bytes:
        return orjson.dumps(self.alias, option=orjson.OPT_INDENT_2)

    @classmethod
    def decoded(cls, data: bytes) -> _Mirror | None:
        try:
            raw = orjson.loads(data)
            before = tuple(int(one) for one in raw["before"])
            return cls(Alias(int(raw["number"]), str(raw["name"]), float(raw["moved_at"]), before))
        except (ValueError, KeyError, TypeError):
            return None


class Registry:
    """The versions of all projects in one store.

    ``store`` is a folder or any fsspec URL (``s3://bucket/models``), ``keep`` how many versions of a project stay,
    ``cache`` where versions of a remote store are copied to before they are read. Methods that read or write the
    store raise `StoreUnavailable`, those that need the alias or a number `Unavailable`.
    """

    def __init__(
        self, store: str | Path, redis: redis.Redis, prefix: str = "mlb:", *, keep: int = 10, cache: Path | None = None
    ) -> None:
        self._storage = open_storage(store, cache)
        self._aliases = Aliases(redis, prefix)
        self._keep = max(1, keep)
        self._verifier = Verifier()

    def probe(self) -> None:
        """Write something to the store and take it away again. Raises `StoreUnavailable`."""
        self._storage.probe()

    # Publishing

    def new_number(self, uid: str) -> int:
        """A number for the next version of this project, never given out before."""
        return self._aliases.new_number(uid, max(self._storage.numbers(check_uid(uid)), default=0))

    def publish(
        self,
        uid: str,
        number: int,
        directory: Path,
        manifest: Manifest,
        lease_check: Callable[[], bool],
        *,
        now: float,
    ) -> Version:
        """Store the files of ``directory`` as version ``number``; it exists once its manifest does, and not before.

        ``manifest`` holds what the run knows; number, files and time are filled in, and the name where it has none of
        its own (which must hold the number: names are unique). ``lease_check`` is asked before each file and right
        before the manifest; what it raises comes through. Raises `LeaseLost` when it says no, `ModelError` for files
        that a version cannot hold, `RegistryError` when the number is taken, `StoreUnavailable` (a full disk, for
        instance): nothing is visible then, and what was written is removed.
        """
        check_uid(uid)
        sources = files_of(directory)
        _must_hold(lease_check)
        self._sweep(uid, number)
        self._storage.begin(uid, number)
        try:
            files: dict[str, FileEntry] = {}
            for name, source in sources.items():
                _must_hold(lease_check)
                files[name] = self._storage.put(uid, number, name, source)
            whole = replace(
                manifest, number=number, name=manifest.name or version_name(number, now), files=files, created_at=now
            )
            data = encode(whole)
            decode(data)
            _must_hold(lease_check)
            self._storage.commit(uid, number, files, data)
        except BaseException as error:
            self._discard(uid, number)
            if isinstance(error, FileNotFoundError):
                raise StoreUnavailable(f"a file vanished while version {number} was published: {error}") from error
            raise
        self.prune(uid)
        self._mend_mirror(uid)
        return Version(uid, whole, _status(whole, None))

    def _discard(self, uid: str, number: int, *, leftover: bool = False) -> None:
        try:
            self._storage.remove(uid, number, leftover=leftover)
        except RegistryError as error:
            log.warning("leftovers of version %d of project %s stay until the next run: %s", number, uid, error)

    def _sweep(self, uid: str, number: int) -> None:
        # Whoever holds the lease is the only one who may publish: older numbers without a manifest were given up.
        for old, complete in self._storage.numbers(uid).items():
            if old < number and not complete:
                self._discard(uid, old, leftover=True)

    def prune(self, uid: str) -> list[int]:
        """Remove old versions; the numbers that went.

        Kept are the last ``keep``, the one that serves, the one before it, and the parents of the newest and of the
        serving one. When the alias cannot be read nothing is removed. Never raises: the next publishing tries again.
        """
        removed: list[int] = []
        try:
            alias = self._aliases.read(uid) or self._stored_alias(uid)
            numbers = sorted((one for one, complete in self._storage.numbers(uid).items() if complete), reverse=True)
            kept = set(numbers[: self._keep])
            needed = numbers[:1]
            if alias is not None:
                kept |= {alias.number, *alias.before[-1:]}
                needed.append(alias.number)
            for old in [one for one in numbers if one not in kept]:
                if not any(self._parent(uid, one) == old for one in needed):
                    self._storage.remove(uid, old)
                    removed.append(old)
        except (RegistryError, Unavailable) as error:
            log.warning("old versions of project %s stay for now: %s", uid, error)
        return removed

    def _parent(self, uid: str, number: int) -> int | None:
        try:
            return self._manifest(uid, number).parent
        except (VersionNotFound, VersionCorrupt):
            return None

    # Reading

    def versions(self, uid: str) -> list[Version]:
        """All versions of a project, newest first; damaged ones are left out and logged."""
        alias = self._alias_or_mirror(check_uid(uid))
        found: list[Version] = []
        for number, complete in sorted(self._storage.numbers(uid).items(), reverse=True):
            if not complete:
                continue
            try:
                manifest = self._manifest(uid, number)
            except VersionNotFound:
                continue
            except StoreUnavailable:
                raise
            except RegistryError as error:
                log.warning("version %d of project %s is left out: %s", number, uid, error)
                continue
            found.append(Version(uid, manifest, _status(manifest, alias)))
        return found

    def get(self, uid: str, number: int) -> Version:
        """One version. Raises `VersionNotFound`, `VersionCorrupt`, `RegistryError` (made by a newer release)."""
        manifest = self._manifest(check_uid(uid), number)
        return Version(uid, manifest, _status(manifest, self._alias_or_mirror(uid)))

    def find(self, uid: str, name: str) -> Version:
        """One version by its name (``v12-20261122-0755``), ``v12`` or ``12``. Raises `VersionNotFound`."""
        number = version_number(name if "-" in name else name.removeprefix("v"))
        if number is None:
            raise VersionNotFound(f"{name!r} is not the name of a version")
        version = self.get(uid, number)
        if "-" in name and version.name != name:
            raise VersionNotFound(f"project {uid} has no version {name}; its version {number} is {version.name}")
        return version

    def fetch(self, uid: str, number: int) -> Path:
        """A local folder with exactly the version's files, verified. Read only: it may be the store itself.

        Raises `VersionNotFound`; `VersionCorrupt` when a file is missing, added, changed, or a link.
        """
        manifest = self._manifest(check_uid(uid), number)
        folder = self._storage.folder(uid, number, manifest)
        try:
            self._verifier.check(folder, manifest)
        except VersionCorrupt:
            if not self._storage.forget(uid, number):
                raise
            log.warning("the copy of version %d of project %s is damaged: fetched again", number, uid)
            folder = self._storage.folder(uid, number, manifest)
            self._verifier.check(folder, manifest)
        return folder

    def _manifest(self, uid: str, number: int) -> Manifest:
        try:
            manifest = decode(self._storage.read(uid, f"{number:d}/{MANIFEST}"))
        except FileNotFoundError as error:
            raise VersionNotFound(f"project {uid} has no version {number}") from error
        if manifest.number != number:
            raise VersionCorrupt(f"the manifest of version {number} says that it is version {manifest.number}")
        return manifest

    # The alias

    def alias(self, uid: str) -> Alias | None:
        """Which version must be served; None when there is none.

        Where Redis knows nothing, it is rebuilt from the store. Cheap as long as Redis knows.
        """
        return self._aliases.read(check_uid(uid)) or self._rebuild(uid)

    def revision(self) -> int:
        """A number that changes whenever an alias of any project moves: one cheap question instead of many."""
        return self._aliases.revision()

    def serving(self, uid: str) -> Version | None:
        """The version that must be served; None before the first promotion. Raises as `get` does."""
        alias = self.alias(uid)
        if alias is None:
            return None
        return Version(uid, self._manifest(uid, alias.number), "serving")

    def promote(
        self, uid: str, number: int, *, token: int | None = None, instead_of: int | None = None, now: float
    ) -> Version:
        """Let version ``number`` serve.

        ``token`` is the fencing token of the run that asks: `LeaseLost` when a newer run has promoted since. Without
        one a person asks: nothing fences, but the files are verified first. ``instead_of`` is the version that it was
        compared with: `PromotionRefused` when another one serves by now, since a person's word comes before what was
        measured against something else. Raises `VersionNotFound`, `VersionCorrupt`.
        """
        manifest = self._manifest(check_uid(uid), number)
        if token is None:
            self.fetch(uid, number)
        # Machines' clocks differ: never before what it follows, so that a rebuild finds the latest move.
        now = max(now, manifest.created_at)
        for _ in range(_TRIES):
            current = self.alias(uid)
            if current is not None and current.number == number:
                target = current
            elif current is not None:
                if instead_of is not None and instead_of != current.number:
                    raise PromotionRefused(
                        f"{current.name} was made to serve meanwhile, and it was compared with version {instead_of}"
                    )
                target = current.onward(number, manifest.name, max(now, current.moved_at))
            else:
                target = Alias(number, manifest.name, now)
            if self._moved(uid, current, target, token):
                return Version(uid, manifest, "serving")
        raise Unavailable(f"others keep moving what project {uid} serves: try again")

    def rollback(self, uid: str, *, now: float) -> Version:
        """Serve again what served before; repeated, go further back. Raises `VersionNotFound` when nothing did."""
        for _ in range(_TRIES):
            current = self.alias(check_uid(uid))
            if current is None:
                raise VersionNotFound(f"project {uid} serves no version yet")
            version, before = self._step_back(uid, current)
            target = Alias(version.number, version.name, max(now, current.moved_at), before)
            if self._moved(uid, current, target, None):
                return version
        raise Unavailable(f"others keep moving what project {uid} serves: try again")

    def _step_back(self, uid: str, current: Alias) -> tuple[Version, tuple[int, ...]]:
        before = current.before
        while before:
            before, number = before[:-1], before[-1]
            try:
                self.fetch(uid, number)
                return Version(uid, self._manifest(uid, number), "serving"), before
            except (VersionNotFound, VersionCorrupt) as error:
                log.warning("rolling back project %s past version %d: %s", uid, number, error)
        raise VersionNotFound(f"project {uid} has no earlier version to go back to")

    def _moved(self, uid: str, current: Alias | None, target: Alias, token: int | None) -> bool:
        answer = self._aliases.move(uid, target, expected=current.number if current else 0, token=token)
        if answer == "fenced":
            raise LeaseLost(f"a newer run has promoted a version of project {uid}: version {target.number} stays aside")
        if answer == "ok":
            self._write_mirror(uid, target)
        return answer == "ok"

    def _write_mirror(self, uid: str, alias: Alias) -> None:
        # Whoever writes last looks once more, so that the mirror ends at the last of two moves.
        try:
            for _ in range(_TRIES):
                self._storage.write(uid, _MIRROR, _Mirror(alias).encoded())
                latest = self._aliases.read(uid)
                if latest is None or latest == alias:
                    return
                alias = latest
        except (StoreUnavailable, Unavailable) as error:
            log.warning("the store's note of what project %s serves is out of date: %s", uid, error)

    def _mend_mirror(self, uid: str) -> None:
        # It is out of date when the store was away during the last move. Redis is right while it knows anything.
        try:
            mirrored = self._mirrored(uid)  # first: what is promoted between the two has its note already, or writes it
            alias = self._aliases.read(uid)
        except (StoreUnavailable, Unavailable) as error:
            log.warning("the store's note of what project %s serves could not be compared: %s", uid, error)
            return
        if alias is not None and mirrored != alias:
            self._write_mirror(uid, alias)

    def _rebuild(self, uid: str) -> Alias | None:
        stored = self._stored_alias(uid)
        if stored is None:
            return None
        log.warning("Redis had lost what project %s serves: %s again, from the store", uid, stored.name)
        self._aliases.move(uid, stored, expected=0)
        return self._aliases.read(uid)

    def _stored_alias(self, uid: str) -> Alias | None:
        # Without a note nothing was promoted yet: a version may be published and its run about to promote it.
        mirrored = self._mirrored(uid)
        if mirrored is None:
            return None
        for number, complete in sorted(self._storage.numbers(uid).items(), reverse=True):
            manifest = self._manifest_or_none(uid, number) if complete and number > mirrored.number else None
            if manifest is None or not manifest.promotion.promoted or manifest.created_at <= mirrored.moved_at:
                continue
            # Promoted after the note was last written: the writer died in between. One that was compared with another
            # version than the noted one was overtaken by a person, and never served.
            if manifest.parent in {None, mirrored.number}:
                return mirrored.onward(number, manifest.name, manifest.created_at)
        return mirrored if self._manifest_or_none(uid, mirrored.number) else None

    def _manifest_or_none(self, uid: str, number: int) -> Manifest | None:
        try:
            return self._manifest(uid, number)
        except StoreUnavailable:
            raise
        except RegistryError:
            return None

    def _mirrored(self, uid: str) -> Alias | None:
        try:
            mirror = _Mirror.decoded(self._storage.read(uid, _MIRROR))
        except FileNotFoundError:
            return None
        return mirror.alias if mirror else None

    def _alias_or_mirror(self, uid: str) -> Alias | None:
        try:
            return self.alias(uid)
        except Unavailable:
            return self._mirrored(uid)


def open_storage(store: str | Path, cache: Path | None) -> Storage:
    """The storage behind a path or URL; ``file://`` is a folder too."""
    text = str(store)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return FolderStorage(Path(text).expanduser().absolute())
    if scheme == "file":
        return FolderStorage(Path(rest))
    # fsspec and what it brings (an event loop, boto) is for those who use it.
    from ml_backend.registry.remote import RemoteStorage  # noqa: PLC0415

    return RemoteStorage(text, cache or Path.home() / ".cache" / "label-studio-refit" / "versions")


def _must_hold(lease_check: Callable[[], bool]) -> None:
    if not lease_check():
        raise LeaseLost("the project belongs to another run now: nothing is published")


def _status(manifest: Manifest, alias: Alias | None) -> Status:
    if alias is not None and alias.number == manifest.number:
        return "serving"
    return "standby" if manifest.promotion.promoted else "kept aside"
