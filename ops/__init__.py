"""Running Millstream and caring for it: local servers, topics, the command line."""
