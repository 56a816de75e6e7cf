"""The share of the processor that a container gives, by both versions of control groups."""

import warnings

import pytest
import torch

from fewer.kernels.cpu import quota as module
from fewer.kernels.cpu.quota import cpu_quota, warn_of_quota


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)


@pytest.fixture
def groups(tmp_path):
    """The file of the memberships, and the folder where groups are mounted."""
    return tmp_path / "cgroup", tmp_path / "mounted"


def test_version_2_takes_the_least_quota_on_the_way_down(groups):
    membership, mounted = groups
    membership.write_text("0::/pod/container\n")
    write(mounted, cpu__max="max 100000\n")
    assert cpu_quota(*groups) is None
    write(mounted / "pod", cpu__max="50000 100000\n")
    write(mounted / "pod" / "container", cpu__max="200000 100000\n")
    assert cpu_quota(*groups) == 0.5


@pytest.mark.parametrize("folder", ["cpu,cpuacct", "cpu"])
def test_version_1_is_read_where_the_container_mounts_its_own_group_as_the_root(groups, folder):
    membership, mounted = groups
    membership.write_text("5:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n0::/\n")
    write(mounted / folder, cpu__cfs_quota_us="-1\n", cpu__cfs_period_us="100000\n")
    assert cpu_quota(*groups) is None
    write(mounted / folder, cpu__cfs_quota_us="150000\n")
    assert cpu_quota(*groups) == 1.5


@pytest.mark.parametrize("content", ["", "nonsense", "1 0", "max max"])
def test_without_a_quota_that_can_be_read_there_is_none(groups, content):
    membership, mounted = groups
    assert cpu_quota(*groups) is None  # no such file: another system
    membership.write_text("0::/\n")
    assert cpu_quota(*groups) is None  # nothing mounted
    write(mounted, cpu__max=content)
    assert cpu_quota(*groups) is None


@pytest.mark.parametrize(
    ("quota", "threads", "fitting"), [(0.5, 2, 1), (1.5, 3, 1), (2.0, 4, 2), (1.0, 2, 1)]
)
def test_more_threads_than_the_quota_are_warned_of(monkeypatch, quota, threads, fitting):
    monkeypatch.setattr(module, "cpu_quota", lambda: quota)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    with pytest.warns(UserWarning, match=rf"set_num_threads\({fitting}\)"):
        warn_of_quota()


@pytest.mark.parametrize(("quota", "threads"), [(None, 64), (0.5, 1), (1.5, 2), (4.0, 4)])
def test_fitting_threads_are_not_warned_of(monkeypatch, quota, threads):
    monkeypatch.setattr(module, "cpu_quota", lambda: quota)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_quota()
