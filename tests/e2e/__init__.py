"""The product on a real cluster, installed by its chart and run under its rights only."""
