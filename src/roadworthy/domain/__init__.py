"""What an agent server is: values and rules without I/O.

Called by every layer above; calls nothing but the standard library.
"""
