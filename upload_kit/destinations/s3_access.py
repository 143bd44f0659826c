"""
Where a bucket is and who we are there, as the AWS tools find out; signatures.

botocore does both: profiles, environment, single sign-on, roles and instance metadata
for the credentials; its endpoint rules for the address; Signature Version 4. It sends
nothing of ours: bytes and requests go over our own wire.
"""

from __future__ import annotations

import functools
import gzip
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit

import botocore.loaders
import botocore.session
import msgspec
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import BotoCoreError, NoCredentialsError

from upload_kit.errors import AuthenticationFailed, ConfigurationError
from upload_kit.threads import in_thread

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from botocore.credentials import ReadOnlyCredentials

STYLES: Final = ("auto", "path", "virtual")

# Credentials that expire are looked at again after so many seconds; botocore renews
# them at least ten minutes before their end.
_FRESH: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Settings:
    """What a URL may say of a bucket; None leaves it to the AWS configuration."""

    endpoint_url: str | None = None
    """Another service than Amazon's, for example `http://127.0.0.1:9000`."""

    region: str | None = None
    """The bucket's region."""

    profile: str | None = None
    """Section of the AWS configuration files."""

    addressing_style: str | None = None
    """Where the bucket's name goes: `path`, `virtual` (the host name) or `auto`."""


class _QuickFileLoader(botocore.loaders.JSONFileLoader):
    """
    Reads botocore's tables of endpoints and operations.

    botocore's own decoding of them, with a call for each object of JSON, is a third of
    the time that it takes to begin.
    """

    def load_file(self, file_path: str) -> Any:
        """Return what a file holds, or None if there is none; without its ending."""
        for ending, opened in ((".json", open), (".json.gz", gzip.open)):
            path = Path(file_path + ending)
            if path.is_file():
                with opened(path, "rb") as file:
                    return msgspec.json.decode(file.read())
        return None


@functools.cache
def _loader(data_path: str | None) -> botocore.loaders.Loader:
    """Return what reads botocore's rules, once a process: they are 1 MB of JSON."""
    loader = botocore.loaders.create_loader(data_path)
    loader.file_loader = _QuickFileLoader()
    return loader


class _Signer(S3SigV4Auth):
    """Signs a digest of the body that is known already."""

    def payload(self, request: AWSRequest) -> str:
        """Return what the header `x-amz-content-sha256` says."""
        sha256: str = request.context["sha256"]
        return sha256


class S3Access:
    """
    The address of one bucket, and signatures for it.

    Args:
        base: URL of the bucket, without a slash at its end.

        scope: Service and region that signatures are made for.

        credentials: What botocore found.

        checksums: Whether requests carry checksums; `when_required` in the AWS
            configuration says that this service does not understand them.
    """

    def __init__(
        self,
        base: str,
        scope: tuple[str, str],
        credentials: Any,
        *,
        checksums: bool,
    ) -> None:
        self.base = base
        self.checksums = checksums
        self._scope = scope
        self._credentials = credentials
        self._signer: _Signer | None = None
        self._signer_made = 0.0

    @classmethod
    def load(cls, bucket: str, settings: S3Settings) -> Self:
        """
        Find credentials and address; blocking, and it may ask the network.

        Raises:
            ConfigurationError: The AWS configuration or the bucket's name cannot work.
        """
        try:
            return cls._load(bucket, settings)
        except NoCredentialsError as error:
            raise ConfigurationError(
                f"There are no credentials for s3://{bucket}.",
                hint="Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,"
                " or run: aws configure",
            ) from error
        except (BotoCoreError, ValueError) as error:
            reason = str(error).rstrip(".")
            raise ConfigurationError(f"s3://{bucket} cannot work: {reason}.") from error

    @classmethod
    def _load(cls, bucket: str, settings: S3Settings) -> Self:
        session = botocore.session.Session(profile=settings.profile)
        data_path = session.get_config_variable("data_path")
        session.register_component("data_loader", _loader(data_path))
        style = settings.addressing_style
        facts: Any = {"addressing_style": style} if style else None
        client: Any = session.create_client(
            "s3",
            region_name=settings.region,
            endpoint_url=settings.endpoint_url,
            config=Config(signature_version="s3v4", s3=facts),
        )
        # A signed URL is how botocore tells address, service and region by its rules.
        signed = client.generate_presigned_url(
            "head_bucket", Params={"Bucket": bucket}, ExpiresIn=60
        )
        checksums = client.meta.config.request_checksum_calculation != "when_required"
        client.close()
        url = urlsplit(signed)
        scope = parse_qs(url.query)["X-Amz-Credential"][0].split("/")
        return cls(
            f"{url.scheme}://{url.netloc}{url.path}".rstrip("/"),
            (scope[-2], scope[-3]),
            session.get_credentials(),
            checksums=checksums,
        )

    @property
    def region(self) -> str:
        """The region that signatures are made for."""
        return self._scope[1]

    async def sign(
        self, method: str, url: str, headers: Mapping[str, str], *, sha256: str
    ) -> dict[str, str]:
        """
        Return the headers of a request, with its signature.

        Args:
            method: In capitals.

            url: Percent-encoded.

            headers: All that are to be signed.

            sha256: Digest of the body, which the signature covers.

        Raises:
            AuthenticationFailed: Credentials that expired could not be renewed.
        """
        signer = await self._fresh_signer()
        request = AWSRequest(method=method, url=url, headers=dict(headers))
        request.context["sha256"] = sha256
        signer.add_auth(request)
        return dict(request.headers.items())

    async def _fresh_signer(self) -> _Signer:
        credentials = self._credentials
        renewed = isinstance(credentials, RefreshableCredentials)
        age = time.monotonic() - self._signer_made
        if self._signer is None or (renewed and age > _FRESH):
            try:
                frozen: ReadOnlyCredentials = await in_thread(
                    credentials.get_frozen_credentials
                )
            except BotoCoreError as error:
                raise AuthenticationFailed(
                    f"The AWS credentials cannot be renewed: {error}.",
                    hint="Log in again.",
                ) from error
            service, region = self._scope
            self._signer = _Signer(frozen, service, region)
            self._signer_made = time.monotonic()
        return self._signer
