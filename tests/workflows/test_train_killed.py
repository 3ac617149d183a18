"""A training that is killed at random moments ends with the files of the unbroken one; of many at once, one trains."""

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest


def kills(*arguments: str) -> str:
    """What `tests.workflows.kills` prints; it forks, so it needs a process without threads."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.workflows.kills", *arguments]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=1700, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL and no fork")
@pytest.mark.parametrize(("times", "steps"), [(3, 12), pytest.param(10, 30, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_with_the_same_files(times, steps):
    seed = random.SystemRandom().randrange(2**31)  # truly random: every run of the tests tries other moments
    print(f"seed {seed}")
    said = kills("--kills", str(times), "--steps", str(steps), "--races", "1", "--seed", str(seed))
    assert re.search(rf"^{times} kills over \d+ runs of {2 * steps} steps: 0 failed to resume", said, re.MULTILINE)
    assert "0 files differ" in said
    assert "1 races of 8 for one folder: 0 where not one won" in said
