"""``python -m signalr_trio`` is ``signalr-trio``."""

from signalr_trio.cli import main

main()
