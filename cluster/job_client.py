"""Ray's job API, as `cluster.jobs` wants it: every request has a deadline, and what went wrong is one of two errors.

Call `actors.ray_settings.use_token_if_there` before this is imported: Ray reads its authentication mode on import.
"""

import contextlib
import logging
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from actors.ray_settings import is_open
from cluster.jobs import Job, Unreachable
from cluster.settings import Refused

_ANSWER_S = 30.0
_START_S = 60.0
_RETRY_S = 3.0
_TALKATIVE = ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env.packaging")
_NOT_YET = "No available agent"  # a head whose port answers may take a while until it runs jobs
_NO_AGENT = (
    "the agent of its head is not up; if another Ray cluster is on that machine, and be it a local run, it has the "
    "agent's port: start this one with --dashboard-agent-listen-port of its own"
)
_OPEN_PORT = (
    "warning: {address} asks for no token, so whoever reaches that port runs code in the cluster; stop it, run "
    "`rloop token` and start it again"
)


class _Client(JobSubmissionClient):
    """Ray's own waits for ever."""

    def _do_request(self, *args: Any, **kwargs: Any) -> Any:
        return super()._do_request(*args, **{"timeout": _ANSWER_S} | kwargs)

    def is_here(self) -> bool:
        """Whether the cluster's head is on this machine; a forwarded port looks like a local one."""
        session = self._do_request("GET", "/api/version").json().get("session_name")
        return any(path.name == session and path.is_dir() for path in _session_directories())


class RayJobs:
    """The jobs of the cluster whose dashboard is at `address`."""

    def __init__(self, address: str) -> None:
        """Connects.

        Raises:
            Refused: When nothing answers there, or not to us.
        """
        self._address = address
        for module in _TALKATIVE:  # what they tell, we tell shorter
            logging.getLogger(f"ray.{module}").setLevel(logging.WARNING)
        try:
            with self._errors():
                self._client = _Client(address)
                self.is_here = self._client.is_here()
        except Unreachable as error:
            raise Refused(
                [
                    f"{error}; start a cluster (`ray start --head`), bring its dashboard's port here (`ray dashboard "
                    "CLUSTER.yaml`, `kubectl port-forward`), or name another --address"
                ]
            ) from None

    def warning(self) -> str:
        """A sentence when anybody may run code in this cluster, else nothing."""
        return _OPEN_PORT.format(address=self._address) if is_open(self._client.get_address()) else ""

    def submit(
        self, job_id: str, entrypoint: str, directory: Path, env: Mapping[str, str], metadata: Mapping[str, str]
    ) -> None:
        """Start a job in a copy of `directory`."""
        environment = {"working_dir": str(directory), "env_vars": dict(env)}
        deadline = time.monotonic() + _START_S
        while True:
            try:
                with self._errors():
                    self._client.submit_job(
                        entrypoint=entrypoint, submission_id=job_id, runtime_env=environment, metadata=dict(metadata)
                    )
                return
            except Refused as refused:
                if _NOT_YET not in str(refused):
                    raise
                if time.monotonic() > deadline:
                    raise Refused([f"{self._address} runs no jobs: {_NO_AGENT}"]) from None
                print("the cluster is still starting; asking again", file=sys.stderr)
                time.sleep(_RETRY_S)

    def all(self) -> list[Job]:
        """Every job that was submitted."""
        with self._errors():
            return [_job(details) for details in self._client.list_jobs() if details.submission_id]

    def stop(self, job_id: str) -> None:
        """Send SIGTERM to a job, and SIGKILL after the time that it was submitted with."""
        with self._errors():
            self._client.stop_job(job_id)

    def log(self, job_id: str) -> str:
        """What it has printed."""
        with self._errors():
            return self._client.get_job_logs(job_id)

    async def tail(self, job_id: str) -> AsyncIterator[str]:
        """The same from the beginning, and as it comes."""
        with self._errors():
            async for text in self._client.tail_job_logs(job_id):
                yield text

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Ray and its libraries have many kinds of these."""
        try:
            yield
        except AuthenticationError as error:
            reason = str(error).splitlines()[0]
            raise Refused(
                [
                    f"{self._address} does not accept our token ({reason}); set RAY_AUTH_TOKEN_PATH to a file with the "
                    "token that the cluster was started with"
                ]
            ) from None
        except (requests.Timeout, requests.ConnectionError, aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{self._address} does not answer ({type(error).__name__})") from error
        except RuntimeError as error:
            if "WebSocket" in str(error):
                raise Unreachable(f"{self._address} broke off ({error})") from error
            raise Refused([f"{self._address}: {str(error).splitlines()[0]}"]) from error


def _session_directories() -> Iterator[Path]:
    """Of all heads on this machine, as they name them: `--temp-dir` moves one, and a container has files of its own."""
    option = "--session-dir="
    for process in psutil.process_iter(["name", "cmdline"]):
        if process.info["name"] == "gcs_server":
            words = process.info["cmdline"] or ()
            yield from (Path(word.removeprefix(option)) for word in words if word.startswith(option))


def _job(details: JobDetails) -> Job:
    return Job(
        id=details.submission_id or "",
        state=details.status.value,
        metadata=details.metadata or {},
        message=details.message or "",
        began_at=(details.start_time or 0) / 1000,
        ended_at=details.end_time / 1000 if details.end_time else None,
        exit_code=details.driver_exit_code,
    )
