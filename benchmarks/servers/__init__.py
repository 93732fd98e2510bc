"""The contestants' programs. Each prints one line of JSON with its port when it is up."""

import gc

# What signalr-trio sets, and every contestant in Python gets: with the default of 700 the garbage
# collector is what is measured when there are thousands of clients.
gc.set_threshold(20_000, 10, 10)
