"""``python -m regard.rag.app.cli``."""

from . import main

main()
