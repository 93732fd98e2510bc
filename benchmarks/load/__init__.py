"""The load generator: ``load.c``, its plan, and how it is driven."""
