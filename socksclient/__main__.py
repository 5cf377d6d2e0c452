"""``python -m socksclient``: the `socksclient` command."""

from socksclient.cli import main

raise SystemExit(main())
