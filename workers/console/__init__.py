"""The console: a page that shows how the system is, and does what an operator may do from there."""
