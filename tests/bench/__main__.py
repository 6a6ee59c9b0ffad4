"""``make bench``: Kapstan beside bare Redis, bare MinIO and its peers, in one run and one table of ratios.

Nothing here is a test: a ratio that falls short is said in the table and never fails the command. Each family of rows
has a file of its own; ``measuring`` holds what they share and ``goals`` what is aimed at. Rows are added below.
"""
