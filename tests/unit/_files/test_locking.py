import os
import signal
import subprocess
import sys
import threading

import pytest

from fewer._files.locking import LOCK_FILE, lock_folder

HOLD = """
import sys
from fewer._files.locking import lock_folder

with lock_folder(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_refused_by_the_name_of_the_folder(tmp_path):
    folder = tmp_path / "run"
    with lock_folder(folder), pytest.raises(ValueError, match=folder.name), lock_folder(folder):
        pass


def test_a_writer_in_another_thread_is_refused(tmp_path):
    errors = []

    def write():
        try:
            with lock_folder(tmp_path):
                pass
        except ValueError as error:
            errors.append(str(error))

    with lock_folder(tmp_path):
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    assert len(errors) == 1
    assert str(tmp_path) in errors[0]


def test_the_next_writer_may_begin_after_success_and_after_an_error(tmp_path):
    with pytest.raises(KeyError), lock_folder(tmp_path):
        raise KeyError
    with lock_folder(tmp_path):
        pass
    assert [file.name for file in tmp_path.iterdir()] == [LOCK_FILE]


def test_a_killed_process_holds_no_lock(tmp_path):
    writer = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with writer:
        assert writer.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="one writer"), lock_folder(tmp_path):
            pass
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    with lock_folder(tmp_path):
        assert (tmp_path / LOCK_FILE).exists()
