"""``python -m socksclient``: the `socksclient` command."""

from socksclient._cli.main import main

raise SystemExit(main())
