"""Who computes the rows of a sweep: processes of its own, any executor, or a cluster of Ray's or Dask's."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from multiprocessing.resource_tracker import ensure_running
from typing import Any

from mpsim.errors import MpsimError, unknown
from mpsim.processes import handlers_kept, held_back, worker_pool
from mpsim.sweeps.grid import Candidate
from mpsim.sweeps.model import Row
from mpsim.sweeps.row import Job, packed, row_here, row_there

__all__ = ["EXECUTORS", "Cluster", "cluster_executor", "submitting"]

EXECUTORS = ("processes", "ray", "dask")


class Cluster(Executor):
    """An executor whose workers are given a value once, and not with each call."""

    def share(self, value: bytes) -> Any:
        """Return what stands for the value among the arguments of a call."""
        raise NotImplementedError


@contextmanager
def submitting(
    jobs: Sequence[Job], processes: int, executor: Executor | None = None
) -> Iterator[Callable[[int, Candidate], Future[Row]]]:
    """Yield what starts to compute the row of a plan of the job with a number."""
    if executor is None:
        with worker_pool(processes, _start, jobs) as pool:
            yield lambda number, candidate: pool.submit(_row_of_process, number, candidate)
    elif isinstance(executor, ThreadPoolExecutor):
        yield lambda number, candidate: executor.submit(row_here, jobs[number], candidate)
    else:
        data = packed(jobs)
        shared = executor.share(data) if isinstance(executor, Cluster) else data
        name = sha256(data).hexdigest()
        yield lambda number, candidate: executor.submit(row_there, name, shared, number, candidate)


_shared: list[Job] = []


def _start(jobs: Sequence[Job]) -> None:
    """Keep what plans share."""
    _shared[:] = jobs


def _row_of_process(number: int, candidate: Candidate) -> Row:
    return row_here(_shared[number], candidate)


def cluster_executor(
    name: str, address: str | None = None, processes: int | None = None
) -> AbstractContextManager[Executor]:
    """Return an executor on a cluster of Ray's or Dask's that is there, or on one of this machine's own.

    Parameters
    ----------
    name : {"ray", "dask"}
    address : str, optional
        The cluster's, such as ``tcp://host:8786`` or ``ray://host:10001``. None: processes are started here, and end
        with this one.
    processes : int, optional
        Of those that are started here.

    Raises
    ------
    MpsimError
        Another name, a library that is not installed, or nobody at the address.
    """
    makers = {"ray": _ray, "dask": _dask}
    if name not in makers:
        raise unknown("executor", name, EXECUTORS)
    return makers[name](address, processes)


class _Dask(Cluster):
    def __init__(self, client: Any) -> None:
        self._client = client
        self._executor = client.get_executor(pure=False)

    def share(self, value: bytes) -> Any:
        return self._client.scatter(value, broadcast=True)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = self._executor.submit(fn, *args, **kwargs)
        return future


@contextmanager
def _dask(address: str | None, processes: int | None) -> Iterator[Executor]:
    try:
        from distributed import Client, LocalCluster
    except ModuleNotFoundError:
        raise MpsimError("Dask is not installed: pip install 'mpsim[dask]'") from None
    own = {
        "n_workers": processes, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0",
        "silence_logs": logging.CRITICAL,
    }  # fmt: skip
    with _reached("Dask", address):
        client = Client(address or LocalCluster(**own))
    try:
        with _translated("Dask"):
            yield _Dask(client)
    finally:
        client.close()
        if address is None and client.cluster is not None:
            client.cluster.close()


class _Ray(Cluster):
    def __init__(self, ray: Any) -> None:
        self._ray = ray

    def share(self, value: bytes) -> Any:
        return self._ray.put(value)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = self._ray.remote(fn).remote(*args, **kwargs).future()
        return future


@contextmanager
def _ray(address: str | None, processes: int | None) -> Iterator[Executor]:
    try:
        import ray
    except ModuleNotFoundError:
        raise MpsimError("Ray is not installed: pip install 'mpsim[ray]'") from None
    own = {} if address else {"num_cpus": processes, "include_dashboard": False}
    with _reached("Ray", address):
        ray.init(address=address or "local", log_to_driver=False, logging_level="error", **own)
    try:
        with _translated("Ray"):
            yield _Ray(ray)
    finally:
        ray.shutdown()


@contextmanager
def _reached(name: str, address: str | None) -> Iterator[None]:
    if sys.platform != "win32":
        ensure_running()  # which would let the signal through
    try:
        with (
            handlers_kept(),
            held_back([signal.SIGINT]),
        ):  # A terminal's Ctrl-C is for this process, who then ends the others.
            yield
    except SystemExit:  # What Ray makes of SIGTERM while it starts: here it is heard as ever.
        signal.raise_signal(signal.SIGTERM)
        raise
    except Exception as error:  # Ray raises that itself.
        where = f"at {address!r}" if address else "on this machine"
        raise MpsimError(f"no cluster of {name} {where}: {error}") from None


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """Say in a line what goes wrong on a cluster."""
    try:
        yield
    except MpsimError:
        raise
    except Exception as error:
        if type(error).__module__.split(".")[0] not in (name.lower(), "distributed"):
            raise
        raise MpsimError(f"a worker of {name}'s failed: {error}") from None
