"""Collectives that fit the network: schedules, their proof, prediction and execution, and the choice."""
