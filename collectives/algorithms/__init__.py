"""Algorithms: functions that return the schedule of an operation for some number of ranks."""
