"""What the command line needs beside the operator's functions: how a command runs and ends, and how answers look."""
