"""Going on without ranks that are lost, and keeping what they had."""
