"""The contestants' programs. Each prints one line of JSON with its port when it is up."""
