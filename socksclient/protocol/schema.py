"""The schema of a `Proxy` as a field of a pydantic model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["core_schema"]


def core_schema(parse: Callable[[object], object]) -> Any:
    """Return the schema of a field whose value `parse` makes, and whose JSON is what `str` returns.

    Args:
        parse: A function that takes the value of the field. A TypeError or a ValueError of it says
            what is wrong with the value.
    """
    from pydantic_core import (
        InitErrorDetails,
        PydanticCustomError,
        ValidationError,
        core_schema as schemas,
    )

    def validate(value: object) -> object:
        try:
            return parse(value)
        except (TypeError, ValueError) as error:
            reason = PydanticCustomError("proxy", "{reason}", {"reason": str(error)})
        # If the error were raised by itself, pydantic would show the input and its password.
        hidden = InitErrorDetails(type=reason, loc=(), input="(hidden)")
        raise ValidationError.from_exception_data("Proxy", [hidden])

    return schemas.no_info_plain_validator_function(
        validate, serialization=schemas.to_string_ser_schema()
    )
