"""The steps of a task run, one file each; ``engine.chain`` puts them in order."""
