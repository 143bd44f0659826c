"""From records to JSON and back."""

from __future__ import annotations

import json
from typing import Any, Self

import msgspec

from upload_kit.errors import ConfigurationError


class Record:
    """What all records share: JSON and back, without loss."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, a key a field."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain

    def to_json(self) -> str:
        """
        Return one line of JSON.

        A file name that is no UTF-8 (lone surrogates in Python) is kept, as escapes.
        """
        try:
            return msgspec.json.encode(self).decode()
        except UnicodeEncodeError:
            return json.dumps(msgspec.to_builtins(self), separators=(",", ":"))

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Self:
        """
        Build the record from plain JSON types, checking every field.

        Raises:
            ConfigurationError: A field is missing, of another type or out of range.
        """
        try:
            return msgspec.convert(plain, cls)
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"Not a {cls.__name__}: {error}.") from error

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """
        Build the record from JSON, checking every field.

        Raises:
            ConfigurationError: It is no JSON, or no such record.
        """
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"Not a {cls.__name__}: {error}.") from error
        except msgspec.DecodeError:
            # It may only be that msgspec refuses lone surrogates.
            return cls.from_dict(cls._parse(text))
        except (RecursionError, UnicodeError) as error:
            raise ConfigurationError(f"Not a {cls.__name__}: {error}.") from error

    @classmethod
    def _parse(cls, text: str | bytes) -> Any:
        try:
            return json.loads(text)
        except (RecursionError, ValueError) as error:
            raise ConfigurationError(f"Not a {cls.__name__}: {error}.") from error
