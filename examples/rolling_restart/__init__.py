"""A rolling restart under load: hub servers are replaced while their clients keep talking.

Run it with ``python -m examples.rolling_restart``; ``--help`` shows the options. The application
is ``hub`` and its clients are ``load`` (Python) and ``javascript/clients.mjs``. ``fleet`` has the
processes, ``rollout`` the order of events, ``ledger`` the accounts, ``screen`` and ``report`` what
is shown.
"""
