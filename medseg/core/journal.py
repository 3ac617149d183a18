"""The journal of a cohort: which cases are done, and by which hashes; what a kill, a full disk or a power cut cannot break.

A case is done when its record stands here, never because a file exists. The record is written after its files took their
names, so that at every moment each record has its files, and files without a record are made anew.
"""

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

from medseg.core.errors import DiskFullError, MedsegError, OutputError
from medseg.core.files import is_plain_file

NAME = "journal.sqlite"
_BESIDE = ("-wal", "-shm", "-journal")  # what SQLite keeps beside it, and opens without a look
FORMAT = "1"
_TABLES = {
    "run": "CREATE TABLE IF NOT EXISTS run (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "cases": "CREATE TABLE IF NOT EXISTS cases (name TEXT PRIMARY KEY, record TEXT, sha256 TEXT) WITHOUT ROWID",
}
# EXCLUSIVE: the run lock lets one process in anyway, and WAL then needs no shared memory, which network disks lack.
_SETTINGS = ("trusted_schema=OFF", "locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=FULL")
Record = dict[str, Any]


class Journal:
    """The open journal in ``folder``, held by this process alone; safe to use from several threads.

    Every method raises DiskFullError on a full disk, and OutputError where the file cannot be written or is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._lock = Lock()
        with self._told():
            # isolation_level None: transactions begin and end where `_transaction` says
            self._connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=5.0)
            try:
                for setting in _SETTINGS:
                    self._connection.execute(f"PRAGMA {setting}")
                (sound,) = self._connection.execute("PRAGMA quick_check(1)").fetchone()
                if sound != "ok":
                    raise sqlite3.DatabaseError(sound)
                with self._transaction():
                    for table in _TABLES.values():
                        self._connection.execute(table)
            except BaseException:
                self._connection.close()
                raise

    @classmethod
    @contextmanager
    def opened(
        cls, folder: Path, identity: Mapping[str, Any], *, also: Sequence[Mapping[str, Any]] = (), anew: bool = False
    ) -> Iterator["Journal"]:
        """The journal in ``folder``, made if there is none, for the block. With ``anew`` what it held is forgotten.

        ``identity`` is JSON: all that decides results beside the scans, such as the model's hashes and the settings; one
        that was begun with one of ``also``, other words for the same, is taken up with ``identity``. Raises OutputError,
        naming both, where the journal was begun with another one, and where something else than a file has its name.
        """
        for place in (folder / f"{NAME}{suffix}" for suffix in ("", *_BESIDE)):
            if os.path.lexists(place) and not is_plain_file(place):
                raise OutputError(
                    f"{place}: is no plain file (a folder, link, pipe or device), where the journal of the cases stands; move "
                    "it away, or choose another --output"
                )
        if anew:
            cls._remove_damaged(folder)
        journal = cls(folder)
        try:
            journal._begin(*map(_as_text, (identity, *also)), anew=anew)
            yield journal
        finally:
            journal._connection.close()

    @classmethod
    def _remove_damaged(cls, folder: Path) -> None:
        """Remove a journal that cannot be opened; its log first, which must never meet another file of that name."""
        try:
            cls(folder)._connection.close()
        except OutputError:
            for suffix in (*_BESIDE, ""):
                with suppress(OSError):
                    folder.joinpath(NAME + suffix).unlink()

    def _begin(self, identity: Mapping[str, str], *others: Mapping[str, str], anew: bool) -> None:
        with self._told(), self._lock, self._transaction():
            if anew:
                for name, table in _TABLES.items():
                    self._connection.execute(f"DROP TABLE {name}")
                    self._connection.execute(table)
            before = dict(self._connection.execute("SELECT key, value FROM run"))
            if before in others:
                self._connection.execute("DELETE FROM run")
            elif before and before != identity:
                told = next((one for one in others if _words(one) == _words(before)), identity)
                raise OutputError(
                    f"{self._path.parent}: {_difference(before, told)}; choose another --output, or start over with --force"
                )
            self._connection.executemany("INSERT OR IGNORE INTO run VALUES (?, ?)", list(identity.items()))

    def expect(self, names: list[str]) -> None:
        """Note that files of these cases may be made from now on, so that what is found of them later is known as ours."""
        with self._told(), self._lock, self._transaction():
            self._connection.executemany(
                "INSERT OR IGNORE INTO cases VALUES (?, NULL, NULL)", [(_key(name),) for name in names]
            )

    def expected(self) -> set[str]:
        """The cases that were ever noted or recorded here."""
        with self._told(), self._lock:
            return {_name(key) for (key,) in self._connection.execute("SELECT name FROM cases")}

    def write(self, name: str, record: Record) -> None:
        """Case ``name`` is done, as JSON ``record`` says: on the disk when this returns, instead of an earlier record."""
        text = json.dumps(record, allow_nan=False)  # in the record's own order, which results keep
        with self._told(), self._lock, self._transaction():
            self._connection.execute("INSERT OR REPLACE INTO cases VALUES (?, ?, ?)", (_key(name), text, _hash(text)))

    def forget(self, name: str) -> None:
        """Case ``name`` is not done any more; its files remain known as ours."""
        with self._told(), self._lock, self._transaction():
            self._connection.execute("UPDATE cases SET record = NULL, sha256 = NULL WHERE name = ?", (_key(name),))

    def records(self) -> dict[str, Record]:
        """What stands here of each case that is done, by name in order; a record that changed on the disk is none."""
        with self._told(), self._lock:
            rows = self._connection.execute(
                "SELECT name, record, sha256 FROM cases WHERE record IS NOT NULL ORDER BY name"
            ).fetchall()
            return {_name(key): _record(text) for key, text, digest in rows if _hash(text) == digest}

    def foreign(self, name: str, why: str) -> OutputError:
        """The error for a record of case ``name`` that no run can have written; ``why`` says how that shows."""
        return self._foreign(f"the record of case {name}: {why}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._explained(error) from error
        except (ValueError, TypeError, AttributeError, RecursionError) as error:  # what stands in a row is no JSON
            raise self._foreign(f"{type(error).__name__}: {error}") from error

    def _explained(self, error: sqlite3.Error) -> MedsegError:
        primary = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if primary in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            return DiskFullError(
                f"{self._path}: the disk is full or failing ({error}); free some space and run again, what is done is kept"
            )
        if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, 0):
            return self._foreign(str(error))
        return OutputError(f"{self._path}: this journal cannot be used ({error}); choose another --output")

    def _foreign(self, why: str) -> OutputError:
        return OutputError(
            f"{self._path}: this journal is damaged or not one of medseg's ({why}); choose another --output, or start over "
            "with --force"
        )


def _key(name: str) -> str:
    """``name`` in ASCII: file names need not be text that a database can hold."""
    return json.dumps(name)[1:-1]


def _name(key: str) -> str:
    return str(json.loads(f'"{key}"'))


def _as_text(identity: Mapping[str, Any]) -> dict[str, str]:
    return {"format": FORMAT, **{key: _text(value) for key, value in identity.items()}}


def _words(identity: Mapping[str, str]) -> dict[str, list[str]]:
    """In which words an identity is told, whatever they say."""
    parts = {key: json.loads(value) for key, value in identity.items()}
    return {key: sorted(value) if isinstance(value, dict) else [] for key, value in parts.items()}


def _record(text: str) -> Record:
    """Raises ValueError where ``text`` is none that ``write`` writes."""
    record: Record = json.loads(text)
    json.dumps(record, allow_nan=False)
    return record


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, allow_nan=False)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _difference(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The first thing in which two identities differ, in words."""
    for key in sorted(before.keys() | now.keys()):
        old, new = (json.loads(one[key]) if key in one else None for one in (before, now))
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            parts = [part for part in sorted(old.keys() | new.keys()) if old.get(part) != new.get(part)]
            return f"was begun with {_listed(key, old, parts)}, but this run has {_listed(key, new, parts)}"
        return f"was begun with {key} {old}, but this run has {new}"
    return "was begun with other settings"


def _listed(key: str, content: Mapping[str, Any], parts: list[str]) -> str:
    return f"{key} {', '.join(f'{part}={json.dumps(content.get(part))}' for part in parts)}"
