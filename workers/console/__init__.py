"""The web console: a page that shows the state of the system and takes operators' actions."""
