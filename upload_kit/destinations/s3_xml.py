"""What S3 says in XML: answers, errors, and the list of parts that makes an object."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from upload_kit.errors import (
    AuthenticationFailed,
    IntegrityError,
    OffsetConflict,
    RemoteError,
    RemoteGone,
    RemoteRejected,
    RemoteUnavailable,
    UploadKitError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from upload_kit.destinations.reply import Reply
    from upload_kit.models import Receipt

_NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"

# What a code means where its status does not tell.
# Source: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_KINDS: Final[dict[type[UploadKitError], tuple[str, ...]]] = {
    RemoteUnavailable: (
        "BandwidthLimitExceeded",
        "ConditionalRequestConflict",
        "IncompleteBody",
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "SlowDownRead",
        "SlowDownWrite",
        "Throttling",
        "ThrottlingException",
    ),
    IntegrityError: (
        "BadDigest",
        "InvalidDigest",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
    ),
    AuthenticationFailed: (
        "AccessDenied",
        "AccountProblem",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
    ),
    RemoteGone: ("NoSuchUpload",),
    OffsetConflict: ("InvalidPart",),
    RemoteRejected: ("NoSuchBucket", "NoSuchKey"),
}
_BY_CODE: Final = {code: kind for kind, codes in _KINDS.items() for code in codes}
_HINTS: Final = {
    "AccessDenied": "Check what these credentials may do with the bucket.",
    "ExpiredToken": "Log in again.",
    "InvalidAccessKeyId": "Check AWS_ACCESS_KEY_ID, or the profile.",
    "NoSuchBucket": "Check the bucket's name, and its region or endpoint.",
    "RequestTimeTooSkewed": "Set this machine's clock.",
    "SignatureDoesNotMatch": "Check the secret access key.",
}


class Node:
    """
    An element of an answer, whatever its namespace.

    Args:
        element: As it was parsed.
    """

    def __init__(self, element: ET.Element) -> None:
        self._element = element

    @property
    def name(self) -> str:
        """Its tag, without a namespace."""
        return self._element.tag.rpartition("}")[2]

    def text(self, name: str) -> str:
        """Return the text of a child; empty if there is none."""
        for child in self._element:
            if child.tag.rpartition("}")[2] == name:
                return (child.text or "").strip()
        return ""

    def children(self, name: str) -> Iterator[Node]:
        """Yield the children of a name."""
        for child in self._element:
            if child.tag.rpartition("}")[2] == name:
                yield Node(child)


def read_xml(reply: Reply) -> Node:
    """
    Return the answer's root element.

    Raises:
        RemoteRejected: It is no XML, so this is not the service we took it for.
    """
    node = _parse(reply.body)
    if node is None:
        raise RemoteRejected(
            f"{reply.method} {reply.url} did not answer with XML.",
            status=reply.status,
            hint="Check that the endpoint is that of an S3 service.",
        )
    return node


def _parse(body: bytes) -> Node | None:
    # Entities need a document type, which S3 never sends.
    if b"<!DOCTYPE" in body:
        return None
    try:
        # While it works, the service sends blanks ahead of its answer.
        return Node(ET.fromstring(body.strip()))  # noqa: S314 (no entities, see above)
    except ET.ParseError:
        return None


def failure(reply: Reply) -> UploadKitError | None:
    """
    Return the error that an answer stands for, or None.

    An error may come with status 200, when it happened after the answer had begun.
    """
    done = 200 <= reply.status < 300
    if done and b"<Error" not in reply.body:
        return None
    error = _parse(reply.body)
    if error is None or error.name != "Error":
        return None if done else _foreign(reply)
    code = error.text("Code")
    words = (error.text("Message") or "(no explanation)").rstrip(".")
    asked = f"{reply.method} {reply.url.partition('?')[0]}"
    message = f"S3 answered {reply.status} {code} to {asked}: {words}."
    return _error(reply, code, message)


def _foreign(reply: Reply) -> UploadKitError:
    """Return the error of an answer that is not in S3's own words."""
    error = reply.error()
    # HEAD has no words; whoever else says 404 does not speak of our upload.
    if isinstance(error, RemoteGone) and reply.method != "HEAD":
        return RemoteRejected(
            error.message, status=reply.status, hint="Check the endpoint."
        )
    return error


def _error(reply: Reply, code: str, message: str) -> UploadKitError:
    kind = _BY_CODE.get(code)
    if kind is None:
        # After a status of 200 nothing is known but that it went wrong.
        kind = RemoteUnavailable if reply.status < 300 else type(reply.error())
    hint = _HINTS.get(code)
    if issubclass(kind, RemoteError):
        return kind(
            message, status=reply.status, retry_after=reply.retry_after, hint=hint
        )
    return kind(message, hint=hint)


def part_list(receipts: Sequence[Receipt], *, checksums: bool) -> bytes:
    """
    Return what completes an upload: its parts in order.

    Args:
        receipts: With the ETag of each part as its tag.

        checksums: Name the SHA-256 of each part too.
    """
    lines = [f'<CompleteMultipartUpload xmlns="{_NAMESPACE}">']
    for receipt in receipts:
        tag = escape(receipt.tag or "")
        line = f"<PartNumber>{receipt.index + 1}</PartNumber><ETag>{tag}</ETag>"
        if checksums and receipt.sha256 is not None:
            encoded = encode_digest(bytes.fromhex(receipt.sha256))
            line += f"<ChecksumSHA256>{encoded}</ChecksumSHA256>"
        lines.append(f"<Part>{line}</Part>")
    lines.append("</CompleteMultipartUpload>")
    return "".join(lines).encode()


def encode_digest(digest: bytes) -> str:
    """Return a digest as S3's headers have it."""
    return base64.b64encode(digest).decode("ascii")
