"""What `roundelay report` makes of the watcher's report: a page for a browser, and a trace."""
