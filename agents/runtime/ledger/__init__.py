"""The roles' durable state: in Postgres (``postgres``), and for tests in memory (``memory``).

Both follow the same pure rules: ``events`` says what events do to runs, ``claims`` who may act.
"""
