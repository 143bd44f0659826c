"""S3 services that were not written here, each in a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

ACCESS_KEY: Final = "AKIAOFTHETESTS"
# It opens nothing.
SECRET_KEY: Final = "a-secret-key-of-the-tests"  # noqa: S105
BUCKET: Final = "bucket"
_BIN: Final = Path(sys.executable).parent
_START_SECONDS: Final = 40.0
_TRIES: Final = 3
# weed opens one gRPC port for each of its parts, beside its HTTP port.
_WEED_PARTS: Final = ("s3", "master", "volume", "filer")


def environment_of(url: str) -> dict[str, str]:
    """Return what the AWS tools take the settings of a service at a URL from."""
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": url,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def make_client(url: str) -> Any:
    """Return botocore's own client of the service at a URL."""
    import botocore.session

    session: Any = botocore.session.Session()
    return session.create_client(
        "s3",
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
    )


class S3Server:
    """
    An S3 service over a folder, on a free port of loopback, with one bucket.

    It blocks while it starts and stops: call it in a thread where a loop runs.

    Args:
        kind: `moto` (an emulator), `rclone` or `weed` (SeaweedFS).

        folder: What it stores to.

        min_part: Bytes of a part at least, where moto is to take less than Amazon does.
    """

    def __init__(self, kind: str, folder: Path, *, min_part: int | None = None) -> None:
        self._min_part = min_part
        self.kind = kind
        self.folder = folder
        self.url = ""
        self._ports: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._client: Any = None

    @staticmethod
    def missing(kind: str) -> str | None:
        """Return why this kind cannot be started here, or None."""
        program = {"moto": "moto_server"}.get(kind, kind)
        if shutil.which(program, path=str(_BIN)) is None:
            return f"{program} is not installed: pip install --group peers"
        return None

    @property
    def environment(self) -> Mapping[str, str]:
        """What the AWS tools take their settings from, of this server and no other."""
        return environment_of(self.url)

    @property
    def pid(self) -> int:
        """The process; only while it runs."""
        assert self._process is not None
        return self._process.pid

    def client(self) -> Any:
        """Return botocore's own client of this server, to look at what is there."""
        if self._client is None:
            self._client = make_client(self.url)
        return self._client

    def objects(self, prefix: str) -> list[tuple[str, bytes]]:
        """Return names and bytes of what stands below a prefix, in order."""
        client = self.client()
        try:
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=BUCKET, Prefix=prefix
            )
            keys = [
                found["Key"] for page in pages for found in page.get("Contents", [])
            ]
            return [
                (key.removeprefix(prefix), self._read(client, key))
                for key in sorted(keys)
            ]
        finally:
            client.close()

    def _read(self, client: Any, key: str) -> bytes:
        content: bytes = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return content

    def unfinished(self, prefix: str) -> list[str]:
        """Return the keys below a prefix that have a multipart upload."""
        from botocore.exceptions import ClientError

        client = self.client()
        try:
            found = client.list_multipart_uploads(Bucket=BUCKET, Prefix=prefix)
        except ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchUpload":
                raise
            # So rclone says that there are none.
            return []
        finally:
            client.close()
        keys = [upload["Key"] for upload in found.get("Uploads", [])]
        return [key for key in keys if key.startswith(prefix)]

    def abort(self, prefix: str) -> None:
        """Abort the multipart uploads below a prefix, as somebody else would."""
        client = self.client()
        try:
            found = client.list_multipart_uploads(Bucket=BUCKET, Prefix=prefix)
            for one in found["Uploads"]:
                client.abort_multipart_upload(
                    Bucket=BUCKET, Key=one["Key"], UploadId=one["UploadId"]
                )
        finally:
            client.close()

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        for _ in range(_TRIES - 1):
            # Somebody else may take a port that was free a moment ago.
            with suppress(RuntimeError):
                self._start_anywhere()
                return self
        self._start_anywhere()
        return self

    def _start_anywhere(self) -> None:
        self._ports = _free_ports(2 * len(_WEED_PARTS))
        self.url = f"http://127.0.0.1:{self._ports[0]}"
        self.start()

    def start(self) -> None:
        """Start it again after `kill`, at the same port and over the same folder."""
        with (self.folder.parent / f"{self.kind}.log").open("wb") as log:
            self._process = subprocess.Popen(
                self._command(self._ports),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **self._limits()},
            )
        try:
            self._await_ready()
        except BaseException:
            self.kill()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def kill(self) -> None:
        """End it at once, as with kill -9."""
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._process is not None:
            process, self._process = self._process, None
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)

    def _limits(self) -> dict[str, str]:
        if self._min_part is None:
            return {}
        return {
            "S3_UPLOAD_PART_MIN_SIZE": str(self._min_part),
            "MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": str(5 * 1024 * 1024),
        }

    def _command(self, ports: list[int]) -> list[str]:
        if self.kind == "moto":
            return [str(_BIN / "moto_server"), "-H", "127.0.0.1", "-p", str(ports[0])]
        if self.kind == "rclone":
            keys = f"{ACCESS_KEY},{SECRET_KEY}"
            words = ["serve", "s3", "--addr", f"127.0.0.1:{ports[0]}"]
            return [str(_BIN / "rclone"), *words, "--auth-key", keys, str(self.folder)]
        return [str(_BIN / "weed"), *self._weed(ports)]

    def _weed(self, ports: list[int]) -> list[str]:
        keys = [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}]
        who = {"name": "tests", "credentials": keys, "actions": ["Admin"]}
        config = self.folder.parent / "weed.json"
        config.write_text(json.dumps({"identities": [who]}))
        words = ["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"]
        words += [f"-dir={self.folder}", f"-s3.config={config}"]
        words += ["-s3.autoCreateBucket=false", "-master.telemetry=false"]
        # Whatever else it starts by itself would listen on the same port everywhere.
        words += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
        for part in ("s3", "filer"):
            words.append(f"-{part}.localSocket={self.folder.parent / part}.sock")
        for index, part in enumerate(_WEED_PARTS):
            words.append(f"-{part}.port={ports[index]}")
            words.append(f"-{part}.port.grpc={ports[len(_WEED_PARTS) + index]}")
        # A volume takes room when it is made; one of 1 GB would not fit everywhere.
        return [*words, "-volume.max=20", "-master.volumeSizeLimitMB=256"]

    def _await_ready(self) -> None:
        """Ask for the bucket until the service has made it."""
        assert self._process is not None
        give_up = time.monotonic() + _START_SECONDS
        while self._process.poll() is None and time.monotonic() < give_up:
            if self._answers() and self._has_bucket():
                return
            time.sleep(0.05)
        log = (self.folder.parent / f"{self.kind}.log").read_text(errors="replace")
        raise RuntimeError(f"{self.kind} does not start:\n{log[-2000:]}")

    def _answers(self) -> bool:
        port = urlsplit(self.url).port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status < 500
        except OSError:
            return False
        finally:
            connection.close()

    def _has_bucket(self) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError

        client = self.client()
        try:
            with suppress(client.exceptions.BucketAlreadyExists):
                client.create_bucket(Bucket=BUCKET)
            # SeaweedFS answers before it can store: the first object tells.
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"ready")
        except (BotoCoreError, ClientError):
            return False
        finally:
            client.close()
        return True


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody listened on a moment ago."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [free.getsockname()[1] for free in sockets]
    for free in sockets:
        free.close()
    return ports
