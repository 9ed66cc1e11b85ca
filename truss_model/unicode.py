"""Text that can be encoded. JSON's escapes can spell lone surrogates, which no tokenizer takes."""

from truss_model.errors import RequestError


def check_unicode(text: str, param: str) -> str:
    """Return the text, or raise RequestError naming `param`."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"Invalid value for '{param}': not valid Unicode (a lone surrogate).", param=param, code="invalid_value"
        ) from error
    return text
