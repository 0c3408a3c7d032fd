"""The router's state machine: pure, without broker, database or clock."""
