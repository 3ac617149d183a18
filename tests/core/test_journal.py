"""The journal of a cohort: what stands in it stands after a kill, for one identity, whatever the names."""

import hashlib
import os
import resource
import signal
import sqlite3
import subprocess
import sys

import pytest

from medseg.core.errors import DiskFullError, OutputError
from medseg.core.journal import NAME, Journal

IDENTITY = {"model": {"name": "liver", "sha256": "aa"}, "settings": {"overlap": 0.5, "series": None}}
RECORD = {"case": "a", "outputs": {"a_seg.nii.gz": "12"}, "seconds": {"read": 0.1}, "warnings": ["ü"]}


def opened(folder, **changes):
    return Journal.opened(folder, IDENTITY | changes.pop("identity", {}), **changes)


def test_a_record_stands_when_the_journal_is_opened_again(tmp_path):
    with opened(tmp_path) as journal:
        journal.expect(["a", "b"])
        journal.write("a", RECORD)
        assert journal.records() == {"a": RECORD}
    with opened(tmp_path) as journal:
        assert journal.records() == {"a": RECORD}
        assert journal.expected() == {"a", "b"}
        journal.forget("a")
        assert journal.records() == {}
        assert journal.expected() == {"a", "b"}
    assert [path.name for path in tmp_path.iterdir()] == [NAME]  # no log is left by a good end


def test_names_that_are_no_text_are_kept(tmp_path):
    names = ["sub/ä", 'quote"d', "back\\slash", os.fsdecode(b"caf\xe9")]
    with opened(tmp_path) as journal:
        for name in names:
            journal.write(name, {"case": name})
    with opened(tmp_path) as journal:
        assert journal.records() == {name: {"case": name} for name in names}


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        (
            {"model": {"name": "liver", "sha256": "bb"}},
            r'was begun with model sha256="aa", but this run has model sha256="bb"',
        ),
        (
            {"settings": {"overlap": 0.25, "series": "3"}},
            r'was begun with settings overlap=0.5, series=null, but this run has settings overlap=0.25, series="3"',
        ),
    ],
)
def test_another_identity_is_refused_naming_both_and_starts_over_when_told(tmp_path, identity, words):
    with opened(tmp_path) as journal:
        journal.write("a", RECORD)
    with pytest.raises(OutputError, match=words), opened(tmp_path, identity=identity):
        pass
    with opened(tmp_path) as journal:
        assert journal.records() == {"a": RECORD}
    with opened(tmp_path, identity=identity, anew=True) as journal:
        assert journal.records() == {}
    with pytest.raises(OutputError, match="was begun with"), opened(tmp_path):
        pass


@pytest.mark.parametrize("damage", [b"no database", b"SQLite format 3\0" + bytes(200)])
def test_a_damaged_journal_is_refused_and_replaced_when_told(tmp_path, damage):
    (tmp_path / NAME).write_bytes(damage)
    with pytest.raises(OutputError, match=r"journal is damaged .* --force"), opened(tmp_path):
        pass
    assert (tmp_path / NAME).read_bytes() == damage
    with opened(tmp_path, anew=True) as journal:
        journal.write("a", RECORD)
        assert journal.records() == {"a": RECORD}


def test_a_record_that_changed_on_the_disk_is_none(tmp_path):
    with opened(tmp_path) as journal:
        journal.write("a", RECORD)
        journal.write("b", RECORD)
    raw = sqlite3.connect(tmp_path / NAME)
    raw.execute("UPDATE cases SET record = replace(record, '12', '13') WHERE name = 'a'")
    raw.commit()
    raw.close()
    with opened(tmp_path) as journal:
        assert journal.records() == {"b": RECORD}


def forged(folder, statement, *values):
    with opened(folder) as journal:
        journal.write("a", RECORD)
    raw = sqlite3.connect(folder / NAME)
    raw.execute(statement, values)
    raw.commit()
    raw.close()
    return (folder / NAME).read_bytes()


def hashed(text):
    return text, hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        *(
            ("UPDATE cases SET record = ?, sha256 = ?", hashed(text))
            for text in ("no JSON", '{"seconds": NaN}', '{"seconds": 1e999}', "[" * 99_999)
        ),
        ("UPDATE cases SET record = ?", [b"bytes"]),
        ("UPDATE cases SET name = ?", ['"']),
        ("UPDATE cases SET record = CAST(x'ff' AS TEXT)", []),
        ("UPDATE run SET value = ? WHERE key = 'settings'", ["no JSON"]),
        ("UPDATE run SET value = ? WHERE key = 'settings'", [b"\xff"]),
        ("ALTER TABLE cases DROP COLUMN sha256", []),
    ],
)
def test_rows_that_no_run_wrote_are_refused_and_stay_until_told_to_start_over(tmp_path, statement, values):
    before = forged(tmp_path, statement, *values)

    def use():
        with opened(tmp_path) as journal:
            journal.expected()
            journal.records()

    with pytest.raises(OutputError, match=r"damaged or not one of medseg's \(.*--force") as caught:
        use()
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    assert (tmp_path / NAME).read_bytes() == before
    with opened(tmp_path, anew=True) as journal:
        journal.write("a", RECORD)
        assert journal.records() == {"a": RECORD}


@pytest.mark.parametrize("suffix", ["", "-wal", "-journal"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "link", "loop"])
@pytest.mark.parametrize("anew", [False, True])
def test_what_is_no_plain_file_is_not_opened_and_stays(tmp_path, suffix, kind, anew):
    place = tmp_path / f"{NAME}{suffix}"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    else:
        place.symlink_to(place if kind == "loop" else "/dev/zero")
    with pytest.raises(OutputError, match=f"{place.name}: is no plain file"), opened(tmp_path, anew=anew):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [place.name]


def test_one_identity_in_other_words_is_taken_up_and_another_one_told_in_its_own_words(tmp_path):
    with opened(tmp_path) as journal:
        journal.write("a", RECORD)
    now = {"model": {"name": "liver", "weights": "w"}, "settings": IDENTITY["settings"]}
    other = {"model": {"name": "liver", "sha256": "bb"}, "settings": IDENTITY["settings"]}
    words = r'was begun with model sha256="aa", but this run has model sha256="bb";'
    with pytest.raises(OutputError, match=words), Journal.opened(tmp_path, now, also=[other]):
        pass
    for also in ([IDENTITY], []):  # and from then on it has the new words
        with Journal.opened(tmp_path, now, also=also) as journal:
            assert journal.records() == {"a": RECORD}


def test_a_place_that_cannot_be_written_is_an_output_error(tmp_path):
    with pytest.raises(OutputError), opened(tmp_path / "nowhere"):
        pass


def fill(journal):
    for number in range(100):
        journal.write(f"b{number}", RECORD | {"more": "x" * 4096})


def test_a_full_disk_is_told_and_what_stood_stands(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(tmp_path) as journal:
        journal.write("a", RECORD)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
        try:
            with pytest.raises(DiskFullError, match="disk is full"):
                fill(journal)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, ignored)
        told = journal.records()
    with opened(tmp_path) as journal:
        assert journal.records() == told
        assert told["a"] == RECORD


def test_what_was_written_before_a_kill_stands(tmp_path):
    program = f"""
import os, signal, sys
from pathlib import Path
from medseg.core.journal import Journal
with Journal.opened(Path({str(tmp_path)!r}), {IDENTITY!r}) as journal:
    for number in range(5):
        journal.write(str(number), {RECORD!r})
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / f"{NAME}-wal").exists()  # nothing tidied up
    with opened(tmp_path) as journal:
        assert journal.records() == {str(number): RECORD for number in range(5)}
