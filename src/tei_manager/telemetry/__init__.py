"""What both planes measure and log: counters, their text format, the log's set-up."""
