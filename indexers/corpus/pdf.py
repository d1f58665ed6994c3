"""PDF to text through pypdf."""

from __future__ import annotations

import io
from typing import Any

from .skips import Unreadable


class UnreadablePdf(Unreadable):
    """A PDF that gives no text: damaged, encrypted, or pictures only."""


def content(data: bytes) -> tuple[str, str, dict[str, Any]]:
    """``(title, text, metadata)``; pages are paragraphs apart, ``metadata["pages"]`` is their number.

    Raises ``UnreadablePdf`` with the reason, ``MemoryError``.
    """
    from pypdf import PdfReader

    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadablePdf("an encrypted PDF that needs a password")
        pages = [page.extract_text() for page in reader.pages]
        title = reader.metadata.title if reader.metadata else None
    except (UnreadablePdf, MemoryError):
        raise
    except Exception as error:  # a damaged PDF fails deep inside the parser, with any exception there is
        raise UnreadablePdf(f"the PDF cannot be read: {type(error).__name__}: {error!s:.200}") from error
    text = "\n\n".join(filter(None, (page.strip() for page in pages)))
    if not text:
        raise UnreadablePdf(f"the PDF has no text on its {len(pages)} pages (scanned pictures need OCR first)")
    return str(title or "").strip(), text, {"pages": len(pages)}
