"""What is shipped: real processes, HTTP and the command line only."""
