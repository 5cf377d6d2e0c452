"""Runs the `socksclient` command, as ``python -m socksclient``."""

from socksclient._cli.main import main

raise SystemExit(main())
