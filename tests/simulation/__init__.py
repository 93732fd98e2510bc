"""The whole product on a simulated network, every choice drawn from one seed: docs/simulation.md."""
