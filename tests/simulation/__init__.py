"""A year of a fleet in minutes: the real code under a virtual clock, with scripted peers."""
